"""One buffer through which every unit passes: the same addresses and the same number of rows.

A processor's routines round a row by where it lies (its address modulo 64 bytes) and by how many
rows there are. A model at a kink, such as a ReLU near zero under large weights, turns such a last
bit into another gradient. So a unit that is computed where its neighbours leave room for it moves
with them, by far more than C in all.

Guarantee: a unit is computed at an address and with a number of rows that are functions of public
shapes alone. The rows that no unit fills are zeros. With one unit at a time, all of its computation
is then the same for any neighbours (`tests/properties/test_unit_isolation.py`); with several, its
place is left, which `place_probe` tries.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor


def portions(
    views: Float[Tensor, "G K *view"], labels: Float[Tensor, "G K L"], units: int
) -> Iterator[tuple[Float[Tensor, "R K *view"], Float[Tensor, "R K L"], int]]:
    """Yield the units in order, R = `units` at a time, always in the same memory.

    Yields:
        views and labels of R units, and how many of them are real: the rest are zeros. The next
        portion overwrites them.
    """
    if not len(views):
        return
    held, held_labels = (
        torch.zeros(units, *given.shape[1:], dtype=given.dtype, device=given.device)
        for given in (views, labels)
    )
    for some, some_labels in zip(views.split(units), labels.split(units), strict=True):
        count = len(some)
        for buffer, given in ((held, some), (held_labels, some_labels)):
            buffer[:count].copy_(given)
            buffer[count:].zero_()
        yield held, held_labels, count
