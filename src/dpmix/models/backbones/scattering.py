"""The wavelet scattering transform of images, as products with small matrices.

Two orders, J = 2, 8 angles, Morlet wavelets (Mallat 2012; Oyallon and Mallat 2015), with kymatio's
conventions: the numbers are kymatio 0.3's. A Fourier transform of a few dozen points is a product
with a cosine and a sine matrix: as fast as an FFT at these sizes, and a graph of products runs in
any runtime. Complex numbers are pairs, [real, imaginary], in a dimension of two.
"""

import numpy as np
import torch
from jaxtyping import Complex128, Float, Float64
from torch import Tensor, nn

SCALES, ANGLES = 2, 8


PATHS = 1 + SCALES * ANGLES + ANGLES**2


"""Numbers a place: one average, 16 of first and 64 of second order."""


_STEP = 2**SCALES


_MARGIN = 4  # pixels that are mirrored at each edge


_WIDTH = 0.8  # of the finest wavelet, in pixels


_PI = 3.1415  # kymatio's, in the norm of its Gaussians alone


Array = Float64[np.ndarray, "..."]


class Scattering(nn.Module):
    """Images [B, C, S, S] to [B, C, 81, S/4, S/4].

    The constants are no part of the state: their last bits are a machine's own.

    Args:
        size: S, a multiple of 4, at least 8.
    """

    rows: Tensor
    columns: Tensor
    mirrored_rows: Tensor
    mirrored_columns: Tensor
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
        mirrored = _mirroring(size)
        forward = _fourier(whole, -1)
        # Real numbers have half of the rows to transform.
        self._keep("rows", forward[:whole])
        self._keep("columns", forward)
        self._keep("mirrored_rows", mirrored @ forward[:whole])
        self._keep("mirrored_columns", np.kron(np.eye(2), mirrored) @ forward)
        self._keep("inverse", _fourier(whole, 1) / whole)
        self._keep("half_inverse", _fourier(half, 1) / half)
        fine, coarse = (
            np.stack([_morlet(whole, scale, angle).T for angle in range(ANGLES)])
            for scale in range(SCALES)
        )
        self._keep("fine", fine[:, :, None])
        # Every second pixel is the mean of four quarters of the spectrum.
        quarters = coarse.reshape(ANGLES, 2, half, 2, half).transpose(1, 3, 0, 2, 4)
        self._keep("coarse", quarters[:, :, :, :, None] / 4)
        low, half_low = _low_pass(size)
        self._keep("low", low)
        self._keep("half_low", half_low)
        self._keep("mirrored_low", mirrored @ low)

    def _keep(self, name: str, value: Array) -> None:
        made = torch.from_numpy(np.ascontiguousarray(value)).float()
        self.register_buffer(name, made, persistent=False)

    def forward(self, x: Float[Tensor, "B C S S"]) -> Float[Tensor, "B C 81 T T"]:
        """Return the transform: the average, then first order, then second, by scale and angle."""
        images = x.flatten(0, 1)
        spectrum = _spectrum(images, self.mirrored_rows, self.mirrored_columns)
        average = _smooth(images[:, None], self.mirrored_low)
        first, second = [], []
        # Angle by angle, so that what is in work is small, and fits a core's cache.
        for wavelet in self.fine.split(1):
            waves = _modulus(spectrum[:, None] * wavelet, self.inverse)
            first.append(_smooth(waves, self.low))
            second.append(self._coarse(_spectrum(waves.squeeze(1), self.rows, self.columns)))
        made = torch.cat([average, *first, self._coarse(spectrum), *second], dim=1)
        return made.view(*x.shape[:2], *made.shape[1:])

    def _coarse(self, spectrum: Float[Tensor, "N M 2 M"]) -> Float[Tensor, "N 8 s s"]:
        """The smoothed responses to the coarse wavelets, at every second pixel until then."""
        half = self.padded // 2
        top, bottom = spectrum[:, None].split(half, dim=2)
        quarters = [part for side in (top, bottom) for part in side.split(half, dim=4)]
        filters = self.coarse.flatten(0, 1)
        folded = quarters[0] * filters[0]
        for quarter, wavelets in zip(quarters[1:], filters[1:], strict=True):
            folded = torch.addcmul(folded, quarter, wavelets)
        return _smooth(_modulus(folded, self.half_inverse), self.half_low)


def _spectrum(
    x: Float[Tensor, "N s s"], rows: Float[Tensor, "s pairs"], columns: Float[Tensor, "twice pairs"]
) -> Float[Tensor, "N M 2 M"]:
    """The Fourier transform of real images, horizontal frequency first."""
    points = columns.shape[1] // 2
    one = (x @ rows).unflatten(-1, (2, points)).permute(0, 3, 2, 1).flatten(2)
    made: Tensor = (one @ columns).unflatten(-1, (2, points))
    return made


def _modulus(
    spectrum: Float[Tensor, "N A m 2 m"], inverse: Float[Tensor, "pairs pairs"]
) -> Float[Tensor, "N A m m"]:
    """The modulus of the images whose Fourier transforms, as `_spectrum` gives them, are given."""
    pairs = (2, spectrum.shape[-1])
    one = (spectrum.flatten(-2) @ inverse).unflatten(-1, pairs).permute(0, 1, 4, 3, 2).flatten(-2)
    real, imaginary = (one @ inverse).unflatten(-1, pairs).unbind(-2)
    return torch.addcmul(real * real, imaginary, imaginary).sqrt()


def _smooth(x: Float[Tensor, "N A m m"], low: Float[Tensor, "m s"]) -> Float[Tensor, "N A s s"]:
    """The local averages, at every fourth pixel of the image."""
    return ((x @ low).transpose(-1, -2) @ low).transpose(-1, -2)


def _mirroring(size: int) -> Array:
    """[S, M]: a row of pixels, mirrored at both ends without repeating the last, is row @ this."""
    place = np.abs(np.arange(-_MARGIN, size + _MARGIN))
    place = np.where(place < size, place, 2 * (size - 1) - place)
    return np.asarray(np.eye(size)[:, place])


def _fourier(points: int, sign: int) -> Array:
    """[2M, 2M]: the transform e^(sign 2 pi i j k / M) of [real, imaginary], as row @ this."""
    turn = sign * 2 * np.pi * np.outer(np.arange(points), np.arange(points)) / points
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.block([[cosine, sine], [-sine, cosine]])


def _morlet(points: int, scale: int, angle: int) -> Array:
    """[M, M]: the Fourier transform of a Morlet wavelet without mean, which is real."""
    width, frequency = _WIDTH * 2**scale, 0.75 * np.pi / 2**scale
    turned = (ANGLES // 2 - 1 - angle) * np.pi / ANGLES
    wave, bump = (_gabor(points, width, turned, xi) for xi in (frequency, 0))
    return np.asarray(np.fft.fft2(wave - wave.sum() / bump.sum() * bump).real)


def _gabor(
    points: int, width: float, angle: float, frequency: float
) -> Complex128[np.ndarray, "M M"]:
    """[M, M]: a wave under a Gaussian twice as wide across as along, summed over five periods."""
    place = np.arange(-2 * points, 3 * points)
    down, right = np.meshgrid(place, place, indexing="ij")
    along = down * np.cos(angle) + right * np.sin(angle)
    across = right * np.cos(angle) - down * np.sin(angle)
    wave = np.exp(-(along**2 + across**2 / 4) / (2 * width**2) + 1j * frequency * along)
    return np.asarray(wave.reshape(5, points, 5, points).sum((0, 2)) / (4 * _PI * width**2))


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
    # The outermost of the places lie in the margin.
    centre = np.arange(1, size // _STEP + 1) * _STEP * points // (size + 2 * _MARGIN)
    return np.asarray(kernel[(centre - np.arange(points)[:, None]) % points])
