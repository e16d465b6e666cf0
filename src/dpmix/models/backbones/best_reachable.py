"""The best backbone that this machine can load without a network."""

import os
from importlib.util import find_spec

from dpmix.extras import to_install
from dpmix.models.backbones.torchvision_tower import offline_weights

CLIP = "open_clip:ViT-B-16/laion2b_s34b_b88k"
_CLIP_REPOSITORY = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"


def best_reachable() -> str:
    """Its name: the paper's CLIP tower, MobileNetV2, or scattering.

    Nothing is loaded: what is installed and what lies in the hub's cache is looked at.
    """
    if _has_clip():
        return CLIP
    return "scatternet" if offline_weights() is None else "mobilenet-v2-offline"


def how_to_do_better(name: str) -> str | None:
    """One line on a better backbone than `name`, where this machine lacks one."""
    if name == CLIP:
        return None
    install = "" if find_spec("open_clip") else f"{to_install('backbones')} and "
    return (
        "no better backbone is at hand; for far better features: "
        f"{install}--backbone {CLIP} --download"
    )


def _has_clip() -> bool:
    if find_spec("open_clip") is None or find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    from dpmix.models.backbones.weights_file import NAMES

    found = (try_to_load_from_cache(_CLIP_REPOSITORY, name) for name in NAMES)
    return any(isinstance(path, (str, os.PathLike)) for path in found)
