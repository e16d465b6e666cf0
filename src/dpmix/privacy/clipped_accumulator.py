"""Clipping and adding up, in float64 (float32 on mps): the one place where both happen.

Formal guarantee: each row that is added, over all tensors together, adds a vector of norm at most C
to the sum, up to the rounding of `sum_dtype`; a row that is not finite adds zero.

Gradients are widened into one buffer that is used again and again, piece by piece where it would
grow too large: norms and sums of float32 numbers in float64 otherwise make a wide copy of every
tensor, in fresh memory, and cost more than the backward pass of one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

# Numbers widened at once (8 MiB of float64, of the caches' size), more where one tensor has more.
_NUMBERS = 1 << 20


def sum_dtype(device: torch.device) -> torch.dtype:
    """Norms and sums over examples: float64, except where the device has none (Apple's mps).

    A float32 sum of 4,096 equal gradients comes out 4e-5 C too far from the sum of 4,095. A float32
    norm over millions of entries comes out up to 5e-5 too small, and clips too little.
    """
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class _Piece:
    """Neighbouring tensors, by their number, and the numbers that they hold in the sum."""

    first: int
    last: int
    start: int
    stop: int


class ClippedAccumulator:
    """A sum of clipped gradients that grows in place.

    Args:
        shapes: tensors of the shapes, and on the device, of the gradients to come.
        max_grad_norm: C; infinite clips nothing.
    """

    def __init__(self, shapes: Sequence[Tensor], max_grad_norm: float) -> None:
        self._shapes = [tuple(tensor.shape) for tensor in shapes]
        self._sizes = [prod(shape) for shape in self._shapes]
        self._max_grad_norm = max_grad_norm
        self._pieces = _pieces(self._sizes)
        self._widest = max(1, *(piece.stop - piece.start for piece in self._pieces))
        device = shapes[0].device
        self._sum = torch.zeros(sum(self._sizes), dtype=sum_dtype(device), device=device)
        self._buffer = self._sum.new_empty(0)

    @property
    def total(self) -> list[Tensor]:
        """The sum, tensor by tensor."""
        parts = self._sum.split(self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def add(self, gradients: list[Float[Tensor, "G ..."]]) -> Float[Tensor, " G"]:
        """Clip each of the G rows over all tensors together and add them; return their norms."""
        together = max(1, _NUMBERS // self._widest)
        flat = [gradient.reshape(len(gradient), -1) for gradient in gradients]
        count = len(flat[0])
        if count <= together:
            return self._add(flat)
        starts = range(0, count, together)
        return torch.cat(
            [self._add([g[start : start + together] for g in flat]) for start in starts]
        )

    def _add(self, rows: list[Float[Tensor, "R ..."]]) -> Float[Tensor, " R"]:
        squares = []
        for piece in self._pieces:
            wide = self._widen(rows, piece)
            squares.append(_squared_norms(wide))
        norms: Tensor = torch.stack(squares).sum(dim=0).sqrt()
        roots = clip_root(norms, self._max_grad_norm)
        # Asking a GPU would make it wait.
        whole = norms.device.type == "cpu" and bool(roots.all())
        for piece in self._pieces:
            if len(self._pieces) > 1:  # a single one still lies in the buffer
                wide = self._widen(rows, piece)
            if not whole:
                wide.masked_fill_((roots == 0)[:, None], 0.0)
            _weigh(self._sum[piece.start : piece.stop], wide, roots)
        return norms

    def _widen(self, rows: list[Float[Tensor, "R ..."]], piece: _Piece) -> Float[Tensor, "R W"]:
        some = rows[piece.first : piece.last]
        count, width = len(some[0]), piece.stop - piece.start
        if self._buffer.numel() < count * width:
            self._buffer = self._sum.new_empty(count * width)
        wide = self._buffer[: count * width].view(count, width)
        torch._foreach_copy_(list(wide.split(self._sizes[piece.first : piece.last], dim=1)), some)
        return wide


def _squared_norms(wide: Float[Tensor, "R W"]) -> Float[Tensor, " R"]:
    if len(wide) == 1:
        return torch.dot(wide[0], wide[0])[None]
    norms: Tensor = torch.linalg.vector_norm(wide, dim=1)
    return norms.square()


def _weigh(
    total: Float[Tensor, " W"], wide: Float[Tensor, "R W"], roots: Float[Tensor, " R"]
) -> None:
    """Add the rows to `total`, each multiplied by its root twice."""
    if total.dtype == torch.float32:
        total.addmv_((wide * roots[:, None]).t(), roots)
    elif len(wide) == 1 and total.device.type == "cpu":
        total.add_(wide[0], alpha=float(roots[0]) ** 2)
    else:
        total.addmv_(wide.t(), roots * roots)


def clip_root(norms: Float[Tensor, "*G"], max_grad_norm: float) -> Float[Tensor, "*G"]:
    """Square root of the clipping factor min(1, C / norm); 0 where the norm is not finite.

    To be multiplied by twice. The factor itself can lie below float32's smallest normal number,
    where it has few bits left, and a factor that is rounded up lets through more than C.
    """
    root = (max_grad_norm / norms).clamp(max=1.0).sqrt()
    return torch.where(torch.isfinite(norms), root, 0.0)


def _pieces(sizes: list[int]) -> list[_Piece]:
    """Neighbours of up to `_NUMBERS` numbers together; a larger tensor by itself."""
    pieces, first, start, stop = [], 0, 0, 0
    for place, size in enumerate(sizes):
        if stop > start and stop + size - start > _NUMBERS:
            pieces.append(_Piece(first, place, start, stop))
            first, start = place, stop
        stop += size
    return [*pieces, _Piece(first, len(sizes), start, stop)]
