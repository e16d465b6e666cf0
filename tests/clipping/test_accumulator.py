"""Clipping and adding up, against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.clipping import accumulator as module
from dpmix.clipping.accumulator import ClippedAccumulator, clip_root

SHAPES = [(3, 4), (2,), (), (5, 1, 2), (1,)]
NUMBERS = 12 + 2 + 1 + 10 + 1


def rows_of(table):
    """The tensors whose rows, flattened and joined, are those of `table`."""
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    parts = table.split(sizes, dim=1)
    return [part.reshape(len(table), *shape) for part, shape in zip(parts, SHAPES, strict=True)]


def accumulator(c):
    return ClippedAccumulator([torch.zeros(shape) for shape in SHAPES], c)


def flat(accumulated):
    return torch.cat([part.flatten() for part in accumulated.total])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.sampled_from([1, 4, 13, 40, 1 << 20]), st.floats(1e-3, 1e3),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_rows_are_clipped_over_all_tensors_and_added_whatever_the_pieces(count, numbers, c, seed):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(count, NUMBERS, generator=generator) * 10 ** torch.empty(count, 1).uniform_(
        -3, 3, generator=generator
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_NUMBERS", numbers)
        accumulated = accumulator(c)
        norms = accumulated.add(rows_of(table))
        again = accumulated.add(rows_of(table[:1]))
    expected = table.double().norm(dim=1)
    clipped = table.double() * (c / expected).clamp(max=1)[:, None]
    assert torch.allclose(norms, expected, rtol=1e-12)
    assert torch.allclose(again, expected[:1], rtol=1e-12)
    assert torch.allclose(flat(accumulated), clipped.sum(0) + clipped[0], rtol=1e-9, atol=1e-12 * c)
    assert [tuple(part.shape) for part in accumulated.total] == SHAPES


def test_the_root_squared_is_the_clipping_factor_and_zero_where_not_finite():
    norms = torch.tensor([0.0, 0.5, 1.0, 4.0, 1e300, torch.inf, torch.nan], dtype=torch.float64)
    squared = clip_root(norms, 1.0).square()
    assert torch.allclose(
        squared, torch.tensor([1, 1, 1, 0.25, 1e-300, 0, 0], dtype=torch.float64), atol=0
    )
