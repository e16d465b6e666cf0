"""`scatter-cnn`: its size by hand, and that it sees each map alone, at any contrast."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.clipping.types import soft_cross_entropy
from dpmix.models import parameter_count
from dpmix.models.scatter_cnn import CHANNELS, ScatterCNN

T = 2
NUMBERS = CHANNELS * T**2


def network(seed=0):
    torch.manual_seed(seed)
    made = ScatterCNN(NUMBERS, 3)
    torch.nn.init.normal_(made.linear.weight)  # zeros would hide everything below them
    return made


NETWORK = network()


def test_the_parameters_are_counted_by_hand():
    narrow, wide = 32, 128
    convolutions = (CHANNELS + 1) * narrow + (narrow * 9 + 1) * wide
    counted = convolutions + 2 * (narrow + wide) + (wide * 2**2 + 1) * 10
    assert parameter_count(ScatterCNN(NUMBERS, 10)) == counted < 200_000


@pytest.mark.parametrize("side", [7, 8, 16])
def test_maps_of_any_side_give_logits(side):
    maps = torch.randn(2, CHANNELS * side**2)
    assert ScatterCNN(maps.shape[1], 5)(maps).shape == (2, 5)


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 99))
def test_contrast_does_not_count_and_no_map_sees_another(contrast, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(4, NUMBERS, generator=generator)
    with torch.no_grad():
        together, scaled = NETWORK(maps), NETWORK(maps * contrast)
        alone = torch.cat([NETWORK(one[None]) for one in maps])
    assert torch.allclose(together, scaled, atol=1e-4)
    assert torch.allclose(together, alone, atol=1e-4)


def test_an_image_without_any_wave_has_finite_logits():
    assert NETWORK(torch.zeros(1, NUMBERS)).isfinite().all()


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(["vectorized", "examplewise", "bookkeeping"]),
    st.integers(1, 3), st.floats(0.01, 10), st.integers(0, 99),
)  # fmt: skip
def test_an_example_moves_the_clipped_sum_by_at_most_c(engine, views, clip, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(3, views, NUMBERS, generator=generator)
    soft = torch.rand(3, views, 3, generator=generator).softmax(dim=2)

    def total(rows):
        part = clipped_gradient_sum(
            NETWORK, soft_cross_entropy, maps[rows], soft[rows], clip, engine=engine
        )
        return torch.cat([g.flatten() for g in part.gradients])

    moved = torch.linalg.vector_norm(total(slice(0, 3)) - total(slice(1, 3)))
    assert 0 < moved <= clip * (1 + 1e-4)
