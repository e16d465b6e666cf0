"""Backbones by name, and the best one that this machine can load without a network connection."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from dpmix.errors import DpmixError, nearest
from dpmix.models.backbones.backbone import Backbone, BackboneRequest, fold_batch_norm
from dpmix.models.backbones.libraries import (
    efficientnet_lite,
    open_clip_tower,
    timm_tower,
    torchvision_tower,
)
from dpmix.models.backbones.scattering import SCATTERING_MAP, scatternet
from dpmix.models.backbones.weights_file import NAMES

Loader = Callable[[BackboneRequest], Backbone]
BUILT_IN: dict[str, Loader] = {
    "scatternet": scatternet,
    SCATTERING_MAP: scatternet,
    "efficientnet-lite0": efficientnet_lite,
    "efficientnet-lite2": efficientnet_lite,
}
LIBRARIES: dict[str, Loader] = {
    "timm": timm_tower,
    "open_clip": open_clip_tower,
    "torchvision": torchvision_tower,
}

CLIP = "open_clip:ViT-B-16/laion2b_s34b_b88k"
_CLIP_REPOSITORY = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"


def load_backbone(
    name: str,
    device: torch.device,
    *,
    weights: Path | None = None,
    pretrained: bool = True,
    download: bool = False,
    input_size: int | None = None,
) -> Backbone:
    """Load a backbone, frozen and in eval mode, on `device`.

    Args:
        name: a name of `BUILT_IN`, or `timm:MODEL`, `torchvision:MODEL`, `open_clip:MODEL/WEIGHTS`.
        device: device that the backbone runs on.
        weights: these four as in `BackboneRequest`.
        pretrained: False leaves the weights at random.
        download: whether missing weights may be fetched.
        input_size: S in pixels.

    Raises:
        DpmixError: an unknown name, a missing package, or weights that are missing, do not fit or
            are not finite.
    """
    prefix, _, model = name.partition(":")
    if name in BUILT_IN:
        if weights is not None:
            raise DpmixError(
                f"backbone '{name}' has its own weights or none; leave out --backbone-weights, or "
                f"name the network that '{weights}' is of, such as timm:resnet18"
            )
        build, model = BUILT_IN[name], name
    elif prefix in LIBRARIES and model:
        build = LIBRARIES[prefix]
    else:
        known = [*BUILT_IN, *(f"{library}:MODEL" for library in LIBRARIES)]
        raise DpmixError(f"unknown backbone '{name}': {nearest(name, known)}")
    request = BackboneRequest(model, weights, pretrained, download, input_size)
    backbone = build(request)
    fold_batch_norm(backbone.module)
    backbone.module.requires_grad_(False).eval().to(device)
    backbone.module.to(memory_format=backbone.module.layout)
    # Weights with a NaN load without an error; buffers can hold infinities by design.
    for path, weight in backbone.module.named_parameters():
        if not weight.isfinite().all():
            raise DpmixError(
                f"the weights of backbone '{name}' are not finite ('{path.removeprefix('body.')}');"
                " give another --backbone-weights, or another backbone"
            )
    _ = backbone.embedding_size  # refuses here what cannot embed an image
    return backbone


def best_reachable() -> str:
    """Name the best backbone that loads without a connection: a cached CLIP tower, or ours."""
    if find_spec("open_clip"):
        from huggingface_hub import try_to_load_from_cache

        found = [try_to_load_from_cache(_CLIP_REPOSITORY, name) for name in NAMES]
        if any(isinstance(path, (str, os.PathLike)) for path in found):
            return CLIP
    return "efficientnet-lite0"


def other_backbones(chosen: str) -> str | None:
    """One line on what to try instead of `chosen`; None for the paper's CLIP tower."""
    if chosen == CLIP:
        return None
    return (
        f"another backbone, such as --backbone {CLIP} --download, may do better or worse on your "
        "kind of image; none was tried on yours"
    )
