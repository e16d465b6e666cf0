"""`timm:MODEL`: any model of timm, without its classifier."""

import logging
from pathlib import Path
from typing import Any

from torch import nn

from dpmix.data.normalization import Normalization
from dpmix.errors import DpmixError, nearest, to_install
from dpmix.models.backbones.backbone import OWN_WEIGHTS, RANDOM, Backbone, BackboneRequest, Embedder
from dpmix.models.backbones.filled import filled, refuse_resized
from dpmix.models.backbones.weights_file import (
    NAMES,
    hub_weights,
    local_weights,
    unfit,
    url_weights,
)


def timm_tower(request: BackboneRequest) -> Backbone:
    """Load timm's model `request.model`, such as `vit_base_patch16_224.augreg_in21k`.

    Raises:
        DpmixError: timm is missing, no such model, or weights that are missing or do not fit.
    """
    timm = _timm()
    name = request.model
    if not timm.is_model(name.partition(".")[0]):
        raise DpmixError(f"unknown timm model '{name}': {nearest(name, timm.list_models())}")
    config = timm.get_pretrained_cfg(name) if _has_tag(timm, name) else None
    if config is None:
        raise DpmixError(
            f"timm has no weights '{name}'; known: "
            f"{', '.join(timm.list_pretrained(name.partition('.')[0] + '.*')) or 'none'}"
        )
    path = _weights(name, config, request) if request.pretrained else None
    keywords: dict[str, Any] = {"num_classes": 0}
    if request.input_size and config.fixed_input_size:
        keywords["img_size"] = request.input_size
    model = (
        _loaded(timm, path, request, config, keywords)
        if path
        else timm.create_model(name, **keywords)
    )
    return Backbone(
        name=f"timm:{name}",
        module=Embedder(model, request.input_size or config.input_size[1]),
        normalization=Normalization(tuple(config.mean), tuple(config.std)),
        provenance=_provenance(name, config, request),
        licence=config.license or "not stated by timm",
    )


def _loaded(
    timm: Any, path: Path, request: BackboneRequest, config: Any, keywords: dict[str, Any]
) -> nn.Module:
    name, network = request.model, f"timm:{request.model}"
    try:
        with filled(path, network, published=request.weights is None, head=_head(config)):
            model: nn.Module = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **keywords
            )
        given = timm.models.load_state_dict(str(path))
    except DpmixError:
        raise
    # timm's loaders raise nearly anything for a file of another network.
    except Exception as error:
        raise unfit(path, error) from error
    refuse_resized(path, network, given, model, resized=request.input_size is not None)
    return model


def _head(config: Any) -> tuple[str, ...]:
    """How the names of a classifier begin: all of it, with its norm layer."""
    named = config.classifier or ()
    layers = (named,) if isinstance(named, str) else named
    return tuple(f"{layer.partition('.')[0]}." for layer in layers)


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise DpmixError(
            f"backbones 'timm:...' need the package timm: {to_install('backbones')}"
        ) from None
    logging.getLogger("timm").setLevel(logging.ERROR)
    return timm


def _has_tag(timm: Any, name: str) -> bool:
    model, _, tag = name.partition(".")
    return not tag or name in timm.list_pretrained(f"{model}.*")


def _weights(name: str, config: Any, request: BackboneRequest) -> Path:
    if request.weights is not None:
        return local_weights(request.weights)
    if config.hf_hub_id:
        names = [config.hf_hub_filename] if config.hf_hub_filename else NAMES
        return hub_weights(config.hf_hub_id, names, download=request.download)
    if config.url:
        return url_weights(f"timm:{name}", config.url, download=request.download)
    raise DpmixError(f"timm has no pretrained weights for '{name}'; give --backbone-weights FILE")


def _provenance(name: str, config: Any, request: BackboneRequest) -> str:
    if not request.pretrained:
        return RANDOM
    if request.weights is not None:
        return f"timm {name}, {OWN_WEIGHTS}"
    return f"timm {name}, {config.hf_hub_id or config.url}"
