"""The best backbone that this machine can load without a network."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

from dpmix.extras import to_install
from dpmix.models.backbones.torchvision_tower import offline_weights

CLIP = "open_clip:ViT-B-16/laion2b_s34b_b88k"
_CLIP_REPOSITORY = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"


def best_reachable() -> str:
    """Its name: the paper's CLIP tower, MobileNetV2, or scattering.

    In this order by their accuracy on CIFAR-10 (docs/defaults.md), which may differ on other kinds
    of images. Nothing is loaded: what is installed and lies in the hub's cache is looked at.
    """
    return next(_at_hand())


def other_backbones(chosen: str) -> str | None:
    """One line on what to try instead of `chosen`, where this machine lacks the paper's."""
    if chosen == CLIP:
        return None
    there = list(_at_hand())
    others = [f"--backbone {name}" for name in there if name != chosen]
    if CLIP not in there:
        install = "" if find_spec("open_clip") else f"{to_install('backbones')} and "
        others.append(f"{install}--backbone {CLIP} --download")
    return (
        "other backbones may do better or worse on your kind of image; none was tried on yours: "
        + ", or ".join(others)
    )


def _at_hand() -> Iterator[str]:
    """All that can be loaded here, by this module's order."""
    if _has_clip():
        yield CLIP
    if offline_weights() is not None:
        yield "mobilenet-v2-offline"
    yield "scatternet"


def _has_clip() -> bool:
    if find_spec("open_clip") is None or find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    from dpmix.models.backbones.weights_file import NAMES

    found = (try_to_load_from_cache(_CLIP_REPOSITORY, name) for name in NAMES)
    return any(isinstance(path, (str, os.PathLike)) for path in found)
