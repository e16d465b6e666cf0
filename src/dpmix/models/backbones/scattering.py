"""`scatternet` and `scattering-map`: a wavelet scattering transform, without trained weights.

Two orders of fixed Morlet wavelets, J = 2, 8 angles (Mallat 2012; Oyallon and Mallat 2015), on
which Tramer and Boneh 2021 (arXiv 2011.11660) train private classifiers. The conventions and
numbers are kymatio 0.3's.

A Fourier transform of a few dozen points is computed as a product with a cosine and a sine matrix.
At these sizes that is as fast as an FFT, and a graph of products runs in any runtime. Complex
numbers are pairs [real, imaginary] in a dimension of two; M = S + 8 is the padded size.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Float64
from safetensors.torch import load_file
from torch import Tensor, nn

from dpmix.data.normalization import normalization
from dpmix.errors import DpmixError
from dpmix.models.backbones.backbone import Backbone, BackboneRequest, Embedder

SCALES, ANGLES = 2, 8
PATHS = 1 + SCALES * ANGLES + ANGLES**2  # a place has 1 average, 16 first and 64 second order
SCATTERING_MAP = "scattering-map"
SCATTERING = ("scatternet", SCATTERING_MAP)  # the backbones without trained weights
WHITENING = Path(__file__).with_name("scatternet_whitening.safetensors")

_SIZE, _GRID = 32, 4
_STEP = 2**SCALES
_MARGIN = 4  # pixels that are mirrored at each edge
_WIDTH = 0.8  # of the finest wavelet, in pixels
_PI = 3.1415  # kymatio's, in the norm of its Gaussians only

Array = Float64[np.ndarray, "..."]


class Scattering(nn.Module):
    """Images [B, C, S, S] to [B, C, 81, S/4, S/4], with S = `size` a multiple of 4, at least 8.

    The constants are not part of the state: their last bits depend on the machine.
    """

    fourier: Tensor
    mirrored_fourier: Tensor
    inverse: Tensor
    half_inverse: Tensor
    fine: Tensor
    coarse: Tensor
    low: Tensor
    half_low: Tensor
    mirrored_low: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.padded = size, size + 2 * _MARGIN
        whole, half = self.padded, self.padded // 2
        mirrored, fourier = _mirroring(size), _fourier(whole, -1)
        fine, coarse = (
            np.stack([_morlet(whole, scale, angle).T for angle in range(ANGLES)])
            for scale in range(SCALES)
        )
        # Taking every second pixel averages the four quarters of the spectrum.
        quarters = coarse.reshape(ANGLES, 2, half, 2, half).transpose(1, 3, 0, 2, 4)
        low, half_low = _low_pass(size)
        constants = {
            "fourier": fourier,
            "mirrored_fourier": np.kron(np.eye(2), mirrored) @ fourier,
            "inverse": _fourier(whole, 1) / whole,
            "half_inverse": _fourier(half, 1) / half,
            "fine": fine[:, :, None],
            "coarse": quarters[:, :, :, :, None] / 4,
            "low": low,
            "half_low": half_low,
            "mirrored_low": mirrored @ low,
        }
        for name, value in constants.items():
            made = torch.from_numpy(np.ascontiguousarray(value)).float()
            self.register_buffer(name, made, persistent=False)

    def forward(self, x: Float[Tensor, "B C S S"]) -> Float[Tensor, "B C 81 T T"]:
        """Return the average, then the first order, then the second, by scale and angle."""
        images = x.flatten(0, 1)
        spectrum = _spectrum(images, self.mirrored_fourier)
        average = _smooth(images[:, None], self.mirrored_low)
        first, second = [], []
        # Angle by angle, so that intermediate results are small and fit into a core's cache.
        for wavelet in self.fine.split(1):
            waves = _modulus(spectrum[:, None] * wavelet, self.inverse)
            first.append(_smooth(waves, self.low))
            second.append(self._coarse(_spectrum(waves.squeeze(1), self.fourier)))
        made = torch.cat([average, *first, self._coarse(spectrum), *second], dim=1)
        return made.view(*x.shape[:2], *made.shape[1:])

    def _coarse(self, spectrum: Float[Tensor, "N M 2 M"]) -> Float[Tensor, "N 8 T T"]:
        """The smoothed responses to the coarse wavelets, computed at every second pixel."""
        half = self.padded // 2
        top, bottom = spectrum[:, None].split(half, dim=2)
        quarters = [part for side in (top, bottom) for part in side.split(half, dim=4)]
        filters = self.coarse.flatten(0, 1)
        folded = quarters[0] * filters[0]
        for quarter, wavelets in zip(quarters[1:], filters[1:], strict=True):
            folded = torch.addcmul(folded, quarter, wavelets)
        return _smooth(_modulus(folded, self.half_inverse), self.half_low)


class ScatterNet(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to 243 x T x T features, with S = `size` of 16 or more.

    The 243 x S/4 x S/4 numbers are averaged over a `grid` of T x T places, or kept where there is
    none. The channels are whitened by constants from random noise
    (`tools/make_scatternet_whitening.py`), so no data set is involved. docs/results.md compares
    this with Tramer and Boneh's group norm.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, size: int, grid: int | None) -> None:
        super().__init__()
        self.scattering, self.grid = Scattering(size), grid
        whitening = load_file(WHITENING)
        self.register_buffer("weight", whitening["weight"])
        self.register_buffer("bias", whitening["bias"][:, None])

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Return the features."""
        maps = self.scattering(x).flatten(1, 2)
        if self.grid is not None:
            maps = F.adaptive_avg_pool2d(maps, self.grid)
        weight = self.weight.expand(x.shape[0], -1, -1)  # `len` would fix B in an export
        return torch.baddbmm(self.bias, weight, maps.flatten(2)).flatten(1)


def scatternet(request: BackboneRequest) -> Backbone:
    """Build `scatternet`, with a 4 x 4 grid, or `scattering-map`, which keeps all places."""
    size = request.input_size or _SIZE
    if size % _STEP or size < _GRID * _STEP:
        raise DpmixError(
            f"backbone {request.model} at {size} pixels: expected a multiple of 4 from 16"
        )
    grid = None if request.model == SCATTERING_MAP else _GRID
    return Backbone(
        name=request.model,
        module=Embedder(ScatterNet(size, grid), size, channels_last=False),
        normalization=normalization("unit", 3),
        provenance=f"no trained weights: wavelet scattering, J = {SCALES}, {ANGLES} angles, "
        "whitened by the statistics of random noise",
        licence="none needed",
    )


def _spectrum(
    x: Float[Tensor, "N s s"], fourier: Float[Tensor, "twice pairs"]
) -> Float[Tensor, "N M 2 M"]:
    """The Fourier transform of real images, horizontal frequency first."""
    pairs = (2, fourier.shape[1] // 2)
    rows = fourier[: x.shape[-1]]  # real numbers need half of the matrix
    one = (x @ rows).unflatten(-1, pairs).permute(0, 3, 2, 1).flatten(2)
    made: Tensor = (one @ fourier).unflatten(-1, pairs)
    return made


def _modulus(
    spectrum: Float[Tensor, "N A m 2 m"], inverse: Float[Tensor, "pairs pairs"]
) -> Float[Tensor, "N A m m"]:
    """The modulus of the images whose Fourier transforms have the layout of `_spectrum`."""
    pairs = (2, spectrum.shape[-1])
    one = (spectrum.flatten(-2) @ inverse).unflatten(-1, pairs).permute(0, 1, 4, 3, 2).flatten(-2)
    real, imaginary = (one @ inverse).unflatten(-1, pairs).unbind(-2)
    return torch.addcmul(real * real, imaginary, imaginary).sqrt()


def _smooth(x: Float[Tensor, "N A m m"], low: Float[Tensor, "m s"]) -> Float[Tensor, "N A s s"]:
    """The local averages, at every fourth pixel of the image."""
    return ((x @ low).transpose(-1, -2) @ low).transpose(-1, -2)


def _mirroring(size: int) -> Array:
    """[S, M]: maps a row of pixels to the row mirrored at both ends, edge pixels not repeated."""
    place = np.abs(np.arange(-_MARGIN, size + _MARGIN))
    return np.asarray(np.eye(size)[:, np.minimum(place, 2 * (size - 1) - place)])


def _fourier(points: int, sign: int) -> Array:
    """[2M, 2M]: the transform e^(sign 2 pi i j k / M) of [real, imaginary] rows."""
    turn = sign * 2 * np.pi * np.outer(np.arange(points), np.arange(points)) / points
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.block([[cosine, sine], [-sine, cosine]])


def _morlet(points: int, scale: int, angle: int) -> Array:
    """[M, M]: the Fourier transform, which is real, of a Morlet wavelet with mean zero."""
    width, frequency = _WIDTH * 2**scale, 0.75 * np.pi / 2**scale
    turned = (ANGLES // 2 - 1 - angle) * np.pi / ANGLES
    # A Gaussian twice as wide across the wave as along it, summed over five periods.
    place = np.arange(-2 * points, 3 * points)
    down, right = np.meshgrid(place, place, indexing="ij")
    along = down * np.cos(turned) + right * np.sin(turned)
    across = right * np.cos(turned) - down * np.sin(turned)
    envelope = -(along**2 + across**2 / 4) / (2 * width**2)
    wave, bump = (
        np.exp(envelope + 1j * xi * along).reshape(5, points, 5, points).sum((0, 2))
        / (4 * _PI * width**2)
        for xi in (frequency, 0)
    )
    return np.asarray(np.fft.fft2(wave - wave.sum() / bump.sum() * bump).real)


def _low_pass(size: int) -> tuple[Array, Array]:
    """[M, S/4] and [M/2, S/4]: Gaussian averages of a row of all or half of the padded pixels."""
    whole, width = size + 2 * _MARGIN, _WIDTH * 2 ** (SCALES - 1)
    place = np.arange(-2 * whole, 3 * whole)
    bump = np.exp(-(place**2) / (2 * width**2)).reshape(5, whole).sum(0)
    spectrum = np.fft.fft(bump / np.sqrt(2 * _PI) / width).real
    low_half = np.concatenate([spectrum[: whole // 4], spectrum[-(whole // 4) :]])
    return _averages(spectrum, size), _averages(low_half, size)


def _averages(spectrum: Array, size: int) -> Array:
    points, kernel = len(spectrum), np.fft.ifft(spectrum).real
    # The outermost places lie in the margin and are left out.
    centre = np.arange(1, size // _STEP + 1) * _STEP * points // (size + 2 * _MARGIN)
    return np.asarray(kernel[(centre - np.arange(points)[:, None]) % points])
