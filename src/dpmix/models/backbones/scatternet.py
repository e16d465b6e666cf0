"""`scatternet`: a wavelet scattering transform, for whoever has no public weights at all.

Two layers of fixed wavelets (J = 2, 8 angles; Oyallon and Mallat 2015), on which Tramer and Boneh
2021 (arXiv 2011.11660) train private classifiers, computed by kymatio.
"""

import warnings
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.data.normalization import normalization
from dpmix.errors import DpmixError
from dpmix.extras import to_install
from dpmix.models.backbone import Backbone, Embedder
from dpmix.models.backbones.request import BackboneRequest
from dpmix.models.backbones.scatternet_whitening import scatternet_whitening

SIZE = 32
SCALES, ANGLES = 2, 8
GRID = 4


class ScatterNet(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to 3,888 features.

    The 243 x S/4 x S/4 numbers are averaged over a 4 x 4 grid, and the channels whitened by
    constants that depend on no data. docs/results.md compares that with Tramer and Boneh's group
    norm, and with other ways to make the numbers fewer.

    Args:
        size: S, a multiple of 4, at least 16.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scattering = scattering(size)
        self._recorded = _Recorded()
        weight, bias = scatternet_whitening()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias[:, None])

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Return the features."""
        plain_cpu = x.device.type == "cpu" and x.dtype == torch.float32
        recorded = plain_cpu and not torch.is_grad_enabled()
        transform = self._recorded.of(self.scattering, x) if recorded else self.scattering
        few = F.adaptive_avg_pool2d(transform(x).flatten(1, 2), GRID).flatten(2)
        weight = self.weight.expand(x.shape[0], -1, -1)  # `len` would fix B where it is exported
        return torch.baddbmm(self.bias, weight, few).flatten(1)


class _Recorded:
    """The transform as a recording of its tensor operations, which runs without Python.

    One pass is some 1,700 small operations. Python has one lock, so that two threads with an
    example each were no faster than one (120 images a second on two cores; 245 recorded). The
    operations are the same, and so is the result, to the last bit.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._transform: Callable[[torch.Tensor], torch.Tensor] | None = None

    def of(self, transform: Any, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """The recording, made by the first call."""
        with self._lock:
            if self._transform is None:
                images = torch.zeros(2, *like.shape[1:])
                with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
                    warnings.simplefilter("ignore")  # deprecated; its successors need a compiler
                    # A function, not the module, whose old attributes fail when they are listed.
                    made = torch.jit.trace(lambda x: transform(x), images, check_trace=False)
                    for _ in range(2):  # the interpreter watches two runs before it settles
                        made(images)
                self._transform = made
            return self._transform

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles record anew."""
        return (_Recorded, ())


def scatternet(request: BackboneRequest) -> Backbone:
    """Build it; there are no weights to load.

    Raises:
        DpmixError: kymatio is missing, or a size that the transform can't take.
    """
    size = request.input_size or SIZE
    if size % 2**SCALES or size < 16:
        raise DpmixError(f"backbone scatternet at {size} pixels: expected a multiple of 4 from 16")
    return Backbone(
        name="scatternet",
        module=Embedder(ScatterNet(size), size, channels_last=False),
        normalization=normalization("unit", 3),
        provenance=f"no trained weights: wavelet scattering, J = {SCALES}, {ANGLES} angles, "
        "whitened by the statistics of random noise",
        licence="none needed (kymatio: BSD-3-Clause)",
    )


def scattering(size: int) -> Any:
    """The transform of images [B, 3, S, S]: 1 average, 16 numbers of first and 64 of second order.

    Returns:
        A module that gives [B, 3, 81, S/4, S/4].

    Raises:
        DpmixError: kymatio is missing.
    """
    try:
        from kymatio.torch import Scattering2D
    except ImportError as error:
        # kymatio 0.3 does not import beside SciPy 1.17, which has dropped what it uses.
        raise DpmixError(
            f"backbone scatternet needs kymatio, with SciPy below 1.17 ({error}): "
            f"{to_install('scatternet')}"
        ) from None
    return Scattering2D(J=SCALES, shape=(size, size), L=ANGLES)
