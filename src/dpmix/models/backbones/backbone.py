"""`Backbone`: a frozen feature extractor with public weights, or with none.

It depends on no private image: its BatchNorm layers are folded into the fixed scale and shift that
they compute in eval mode, so nothing in it keeps or reads the statistics of a batch.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dpmix.data.normalization import Normalization
from dpmix.errors import DpmixError, one_line


@dataclass(frozen=True)
class BackboneRequest:
    """How to load a backbone."""

    model: str  # the library's own name, after the prefix (`timm:MODEL`); otherwise the whole name
    # a local file, or a folder with one; None takes the library's own weights
    weights: Path | None = None
    pretrained: bool = True  # False leaves the weights at random, to measure sizes and costs
    download: bool = False  # whether missing weights may be fetched
    input_size: int | None = None  # S in pixels; None takes the backbone's own

    def provenance(self, library: str, published: object) -> str:
        """Where the weights come from; a local file is known by its hash, not by its name."""
        if not self.pretrained:
            return "random weights (dry run)"
        return f"{library} {self.model}, {'weights of a local file' if self.weights else published}"


class Embedder(nn.Module):
    """Normalised images [B, 3, H, W] of any size to features [B, D].

    Args:
        body: maps [B, 3, S, S] to [B, D].
        input_size: S in pixels, to which images are resized (bilinear, antialiased).
        channels_last: whether convolutions are faster in that memory layout.
    """

    def __init__(self, body: nn.Module, input_size: int, *, channels_last: bool = True) -> None:
        super().__init__()
        self.body = body
        self.input_size = input_size
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Return the features."""
        size = (self.input_size, self.input_size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        features: Tensor = self.body(x.contiguous())
        return features


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network with what a model card states about it."""

    name: str  # the name it was requested by
    module: Embedder  # maps normalised images to features
    normalization: Normalization  # its own public constants
    provenance: str  # where its weights come from
    licence: str  # licence of the weights

    @cached_property
    def embedding_size(self) -> int:
        """D, measured on one black image; a network that gives no row of features is refused."""
        size = self.module.input_size
        device = next((t.device for t in self.module.state_dict().values()), torch.device("cpu"))
        try:
            with torch.inference_mode():
                features = self.module(torch.zeros(1, 3, size, size, device=device))
        # A foreign network may raise anything for a size that it does not take.
        except Exception as error:
            raise DpmixError(
                f"backbone '{self.name}' takes no image of {size} pixels ({one_line(error)}); give "
                "another --backbone-size, or leave it out"
            ) from error
        if features.ndim != 2 or len(features) != 1:
            raise DpmixError(
                f"backbone '{self.name}' gives {list(features.shape)} for one image; expected one "
                "row of features: choose a classifier or an image tower"
            )
        return int(features.shape[1])

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of all that determines the features: weights, constants and input size."""
        digest = sha256(f"{self.module.input_size} {self.normalization}".encode())
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def features(self, images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Return the features of each image, on the images' device; grey images become RGB."""
        features: Tensor = self.module(self.normalization(images.expand(-1, 3, -1, -1)))
        return features


class ChannelAffine(nn.Module):
    """x * weight + bias, per channel (dimension 1); it can be trained privately."""

    def __init__(self, weight: Float[Tensor, " C"], bias: Float[Tensor, " C"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
        """Return the scaled and shifted input."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        # One pass over the input instead of two.
        return torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))


def fold_batch_norm(module: nn.Module) -> None:
    """Replace, in place, every BatchNorm below `module` by the affine map of its eval mode.

    What a fused layer does after its normalisation (timm's `BatchNormAct2d`) is kept.
    """
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, _affine(child, name))
        else:
            fold_batch_norm(child)


@torch.no_grad()
def _affine(layer: _BatchNorm, name: str) -> nn.Module:
    mean, var = layer.running_mean, layer.running_var
    if mean is None or var is None:
        raise DpmixError(
            f"layer '{name}' ({type(layer).__name__}) has no running statistics, so it mixes the "
            "images of a batch; choose a backbone without it"
        )
    scale = torch.rsqrt(var.double() + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight.double()
    shift = -mean.double() * scale
    if layer.bias is not None:
        shift = shift + layer.bias.double()
    affine = ChannelAffine(scale.to(mean.dtype), shift.to(mean.dtype))
    after = list(layer.children())
    return nn.Sequential(affine, *after) if after else affine
