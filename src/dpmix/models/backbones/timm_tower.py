"""`timm:MODEL`: any model of timm, without its classifier."""

import logging
from typing import Any

from torch import nn

from dpmix.data.normalization import Normalization
from dpmix.errors import DpmixError, nearest, to_install
from dpmix.models.backbones.backbone import Backbone, BackboneRequest, Embedder
from dpmix.models.backbones.weights_file import NAMES, find_weights, load_filled


def timm_tower(request: BackboneRequest) -> Backbone:
    """Load timm's model `request.model`, such as `vit_base_patch16_224.augreg_in21k`.

    Raises:
        DpmixError: timm is missing or has no such model, or weights are missing or do not fit.
    """
    timm, name = _timm(), request.model
    config = _config(timm, name)
    keywords: dict[str, Any] = {"num_classes": 0}
    if request.input_size and config.fixed_input_size:
        keywords["img_size"] = request.input_size
    if request.pretrained:
        model = _loaded(timm, request, config, keywords)
    else:
        model = timm.create_model(name, **keywords)
    return Backbone(
        name=f"timm:{name}",
        module=Embedder(model, request.input_size or config.input_size[1]),
        normalization=Normalization(tuple(config.mean), tuple(config.std)),
        provenance=request.provenance("timm", config.hf_hub_id or config.url),
        licence=config.license or "not stated by timm",
    )


def _loaded(
    timm: Any, request: BackboneRequest, config: Any, keywords: dict[str, Any]
) -> nn.Module:
    name = f"timm:{request.model}"
    path = find_weights(
        name,
        request,
        repository=config.hf_hub_id,
        files=[config.hf_hub_filename] if config.hf_hub_filename else NAMES,
        url=config.url,
    )
    overlay = {"file": str(path)}
    # A classifier is one layer or several, some with a norm layer inside.
    named = config.classifier or ()
    layers = (named,) if isinstance(named, str) else named
    model: nn.Module = load_filled(
        path,
        name,
        request,
        lambda: timm.create_model(
            request.model, pretrained=True, pretrained_cfg_overlay=overlay, **keywords
        ),
        lambda: timm.models.load_state_dict(str(path)),
        head=tuple(f"{layer.partition('.')[0]}." for layer in layers),
    )
    return model


def _config(timm: Any, name: str) -> Any:
    """The description of the weights `name`, MODEL or MODEL.TAG."""
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        raise DpmixError(f"unknown timm model '{name}': {nearest(name, timm.list_models())}")
    tags = timm.list_pretrained(f"{model}.*")
    config = None if tag and name not in tags else timm.get_pretrained_cfg(name)
    if config is None:
        raise DpmixError(f"timm has no weights '{name}'; known: {', '.join(tags) or 'none'}")
    return config


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise DpmixError(
            f"backbones 'timm:...' need the package timm: {to_install('backbones')}"
        ) from None
    logging.getLogger("timm").setLevel(logging.ERROR)
    return timm
