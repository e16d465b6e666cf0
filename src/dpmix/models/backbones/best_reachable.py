"""The best backbone that this machine can load without a network."""

import os
from importlib.util import find_spec

from dpmix.extras import to_install
from dpmix.models.backbones.torchvision_tower import offline_weights

CLIP = "open_clip:ViT-B-16/laion2b_s34b_b88k"
_CLIP_REPOSITORY = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"


def best_reachable() -> str:
    """Its name: the paper's CLIP tower, MobileNetV2, scattering, or random filters.

    Nothing is loaded: what is installed and what lies in the hub's cache is looked at.
    """
    if _has_clip():
        return CLIP
    if offline_weights() is not None:
        return "mobilenet-v2-offline"
    # kymatio does not import beside SciPy 1.17; only importing it tells, which is cheap enough.
    return "scatternet" if _imports("kymatio.torch") else "random-conv"


def how_to_do_better(name: str) -> str | None:
    """One line on a better backbone than `name`, where this machine lacks one."""
    if name == CLIP:
        return None
    weak = (
        f"{name} is weak; without public weights: {to_install('scatternet')}; "
        if name == "random-conv"
        else "no better backbone is at hand; "
    )
    install = "" if find_spec("open_clip") else f"{to_install('backbones')} and "
    return f"{weak}for far better features: {install}--backbone {CLIP} --download"


def _has_clip() -> bool:
    if find_spec("open_clip") is None or find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    from dpmix.models.backbones.weights_file import NAMES

    found = (try_to_load_from_cache(_CLIP_REPOSITORY, name) for name in NAMES)
    return any(isinstance(path, (str, os.PathLike)) for path in found)


def _imports(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True
