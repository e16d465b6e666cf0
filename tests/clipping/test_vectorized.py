"""What only the engine `vectorized` can get wrong: models that vmap cannot run."""

import pytest
import torch
from torch import nn

from dpmix.clipping import vectorized
from dpmix.clipping.engine import clipped_gradient_sum, sum_by
from dpmix.clipping.loss import soft_cross_entropy
from dpmix.errors import DpmixError


class Branching(nn.Module):
    """Looks at a value of its input, which vmap forbids."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        x = x.flatten(1)
        return self.linear(x) if x.sum().item() > 0 else self.linear(-x)


def test_a_model_that_vmap_cannot_run_names_the_other_engine():
    views, labels = torch.ones(2, 3, 1, 2, 2), torch.full((2, 3, 2), 0.5)
    with pytest.raises(DpmixError, match=r"cannot run this model.*use engine 'examplewise'"):
        clipped_gradient_sum(
            Branching(), soft_cross_entropy, views, labels, 1.0, engine="vectorized"
        )
    assert clipped_gradient_sum(Branching(), soft_cross_entropy, views, labels, 1.0).engine == (
        "examplewise"
    ), "auto takes the other one"


def test_a_parameter_without_dimensions_is_clipped_too():
    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.tensor(2.0))
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(x.flatten(1)) * self.temperature

    model, views, labels = Tempered(), torch.randn(3, 1, 1, 2, 2), torch.full((3, 1, 2), 0.5)
    one, other = (
        clipped_gradient_sum(model, soft_cross_entropy, views, labels, 0.1, engine=engine)
        for engine in ("vectorized", "examplewise")
    )
    for a, b in zip(one.gradients, other.gradients, strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("bound", "at_once", "views", "passes"),
    [
        ("MAX_GRADIENT_NUMBERS", 25, 1, 3),  # two gradients of 10 numbers
        ("MAX_CPU_VIEWS", 9, 4, 3),  # the views of two examples
        ("MAX_CPU_VIEWS", 3, 4, 5),  # never less than one example
    ],
)
def test_examples_are_taken_in_chunks_that_bound_what_is_held(
    monkeypatch, bound, at_once, views, passes
):
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append(1)
            return super().forward(x.flatten(1))

    images, labels = torch.ones(5, views, 1, 2, 2), torch.full((5, views, 2), 0.5)
    monkeypatch.setattr(vectorized, bound, at_once)
    sum_by("vectorized", Watched(4, 2), soft_cross_entropy, images, labels, 1.0)
    assert len(seen) == passes
