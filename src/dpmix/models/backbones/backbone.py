"""BatchNorm of a pretrained network as what it is in eval mode: a fixed scale and shift.

Guarantees that the folded network computes what the original does in eval mode, and that nothing in
it keeps or reads the statistics of a batch. Its scale and shift can be trained privately.
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

# What was asked of a backbone, beside its name.


RANDOM = "random weights in place of its own, which were not looked for"


"""Where the weights of a network come from that is only tried."""


OWN_WEIGHTS = "weights of a local file"


"""Where they come from if the user gave a file: its name is not published, its hash is."""


@dataclass(frozen=True)
class BackboneRequest:
    """How to load a backbone.

    Attributes:
        model: the library's own name, after the prefix (`timm:MODEL`); the name itself otherwise.
        weights: a local file, or a folder with one; None: the library's own.
        pretrained: False leaves the weights at random, for sizes and costs alone.
        download: fetch weights that are not there.
        input_size: S in pixels; None: the backbone's own.
    """

    model: str
    weights: Path | None = None
    pretrained: bool = True
    download: bool = False
    input_size: int | None = None


class ChannelAffine(nn.Module):
    """x * weight + bias, per channel (dimension 1)."""

    def __init__(self, weight: Float[Tensor, " C"], bias: Float[Tensor, " C"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
        """Return the scaled and shifted input."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        # One pass over the input where a product and a sum would be two.
        return torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))


def fold_batch_norm(module: nn.Module) -> None:
    """Replace, in place, every BatchNorm below `module` by the affine map of its eval mode.

    What a fused layer does after its normalisation (timm's `BatchNormAct2d`) is kept.

    Raises:
        DpmixError: a BatchNorm without running statistics, which has nothing to fold.
    """
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, _folded(child, name))
        else:
            fold_batch_norm(child)


@torch.no_grad()
def _folded(layer: _BatchNorm, name: str) -> nn.Module:
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


# Frozen feature extractors: public weights, or none at all.
#
# Guarantee: a backbone depends on no private image. Its constants are its own, its BatchNorm
# layers are folded into fixed affine ones, and it is loaded in eval mode with nothing to train.


class Embedder(nn.Module):
    """Normalised images [B, 3, H, W] of any size to features [B, D].

    Args:
        body: maps [B, 3, S, S] to [B, D].
        input_size: S, to which images are resized (bilinear, antialiased).
        channels_last: the memory layout that convolutions are faster in.
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
    """A frozen network with what a model card says of it.

    Attributes:
        name: as it was asked for.
        module: normalised images to features.
        normalization: its own public constants.
        provenance: where its weights come from.
        licence: of them.
    """

    name: str
    module: Embedder
    normalization: Normalization
    provenance: str
    licence: str

    @cached_property
    def embedding_size(self) -> int:
        """D, from one public black image.

        Raises:
            DpmixError: the network takes no image of its input size, or gives no row of features.
        """
        size = self.module.input_size
        device = next((t.device for t in self.module.state_dict().values()), torch.device("cpu"))
        try:
            with torch.inference_mode():
                features = self.module(torch.zeros(1, 3, size, size, device=device))
        # What a foreign network raises for a size that it can't take is of any kind.
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
        """Identity of what it computes: of every weight, the constants and the input size."""
        digest = sha256(f"{self.module.input_size} {self.normalization}".encode())
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def features(self, images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Features of each image, on the images' device; grey images become RGB."""
        features: Tensor = self.module(self.normalization(images.expand(-1, 3, -1, -1)))
        return features


def frozen(backbone: Backbone, device: torch.device) -> Backbone:
    """Fold BatchNorm, freeze everything, and move it to `device`, in place."""
    fold_batch_norm(backbone.module)
    backbone.module.requires_grad_(False).eval().to(device)
    backbone.module.to(memory_format=backbone.module.layout)
    return backbone
