"""Clipping and adding, in float64 (float32 on mps): the one place where both happen.

Formal guarantee: each row that is added, over all tensors together, adds a vector of norm at most C
to the sum, up to the rounding of `sum_dtype`; a row that is not finite adds zero.

Gradients are widened into one reused buffer, block by block: norms and sums of float32 numbers in
float64 otherwise copy every tensor to fresh memory, which costs more than the backward pass of one
image. A block holds the same columns of several rows, so that the sum is read and written once for
all of them.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# Numbers widened at once (4 MiB of float64, about a cache), and the most rows that they are of.
_NUMBERS, _ROWS = 1 << 19, 16


def sum_dtype(device: torch.device) -> torch.dtype:
    """The type of norms and of sums over examples: float64, but float32 on Apple's mps.

    A float32 sum of 4,096 equal gradients comes out 4e-5 C too far from the sum of 4,095. A float32
    norm over millions of entries comes out up to 5e-5 too small, and clips too little.
    """
    return torch.float32 if device.type == "mps" else torch.float64


class _Block(NamedTuple):
    """Neighbouring columns of the rows, `start` to `stop` in the sum.

    A part is the number of a tensor, and its first and last + 1 column.
    """

    parts: tuple[tuple[int, int, int], ...]
    start: int
    stop: int


class ClippedAccumulator:
    """A sum of clipped gradients that grows in place.

    Args:
        shapes: tensors with the shapes and the device of the gradients.
        max_grad_norm: clipping norm C; infinite clips nothing.
    """

    def __init__(self, shapes: Sequence[Tensor], max_grad_norm: float) -> None:
        self._shapes = [tuple(tensor.shape) for tensor in shapes]
        self._sizes = [prod(shape) for shape in self._shapes]
        self._max_grad_norm = max_grad_norm
        self._cut: dict[int, list[_Block]] = {}
        device = shapes[0].device
        self._sum = torch.zeros(sum(self._sizes), dtype=sum_dtype(device), device=device)
        self._buffer = self._sum.new_empty(0)

    @property
    def total(self) -> list[Tensor]:
        """The sum, tensor by tensor."""
        parts = self._sum.split(self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def add(
        self, gradients: list[Float[Tensor, "R ..."]], count: int | None = None
    ) -> Float[Tensor, " G"]:
        """Clip R rows over all tensors together, add the first G = `count`, and return their norms.

        With the same R in every call, the rounding of a row does not depend on G. None: all count.
        """
        left = len(gradients[0]) if count is None else count
        flat = [gradient.reshape(len(gradient), -1) for gradient in gradients]
        norms = []
        for rows in zip(*(g.split(_ROWS) for g in flat), strict=True):
            if left <= 0:
                break
            norms.append(self._add(list(rows), left)[:left])
            left -= len(rows[0])
        return torch.cat(norms)

    def _add(self, rows: list[Float[Tensor, "R ..."]], count: int) -> Float[Tensor, " R"]:
        size = len(rows[0])
        if size not in self._cut:
            self._cut[size] = _blocks(self._sizes, max(1, _NUMBERS // size))
        blocks, squares = self._cut[size], []
        for block in blocks:
            wide = self._widen(rows, block)
            squares.append(_squared_norms(wide))
        norms: Tensor = torch.stack(squares).sum(dim=0).sqrt()
        roots = clip_root(norms, self._max_grad_norm)
        roots[count:] = 0.0
        # Reading the answer from a GPU would make it wait.
        whole = norms.device.type == "cpu" and bool(roots.all())
        for block in blocks:
            if len(blocks) > 1:  # a single block is still in the buffer
                wide = self._widen(rows, block)
            if not whole:
                wide.masked_fill_((roots == 0)[:, None], 0.0)
            _weigh(self._sum[block.start : block.stop], wide, roots)
        return norms

    def _widen(self, rows: list[Float[Tensor, "R ..."]], block: _Block) -> Float[Tensor, "R W"]:
        count, width = len(rows[0]), block.stop - block.start
        if self._buffer.numel() < count * width:
            self._buffer = self._sum.new_empty(count * width)
        wide = self._buffer[: count * width].view(count, width)
        widths = [last - first for _, first, last in block.parts]
        parts = [rows[tensor] for tensor, _, _ in block.parts]
        # Only the first and the last can be cut, and a slice costs as much as a small copy.
        for place in {0, len(parts) - 1}:
            _, first, last = block.parts[place]
            parts[place] = parts[place][:, first:last]
        torch._foreach_copy_(list(wide.split(widths, dim=1)), parts)
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

    Rows are multiplied by it twice. The factor itself can be below float32's smallest normal
    number, where it has few bits left, and a factor that is rounded up lets through more than C.
    """
    root = (max_grad_norm / norms).clamp(max=1.0).sqrt()
    return torch.where(torch.isfinite(norms), root, 0.0)


def _blocks(sizes: list[int], width: int) -> list[_Block]:
    """Blocks of `width` columns, in order; a tensor is cut where a block is full."""
    blocks: list[_Block] = []
    parts: list[tuple[int, int, int]] = []
    start = stop = 0
    for tensor, size in enumerate(sizes):
        first = 0
        while first < size:
            last = min(size, first + width - (stop - start))
            parts.append((tensor, first, last))
            stop, first = stop + last - first, last
            if stop - start == width:
                blocks.append(_Block(tuple(parts), start, stop))
                parts, start = [], stop
    return [*blocks, _Block(tuple(parts), start, stop)] if parts or not blocks else blocks
