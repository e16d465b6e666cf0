"""Frozen feature extractors: public weights, or none at all.

Guarantee: a backbone depends on no private image. Its constants are its own, its BatchNorm layers
are folded into fixed affine ones, and it is loaded in eval mode with nothing to train.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dpmix.data.normalization import Normalization
from dpmix.errors import DpmixError, one_line
from dpmix.models.fold_batch_norm import fold_batch_norm


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
