"""What a dry run measures."""

import pytest

from dpmix.clipping.vectorized import MAX_CPU_VIEWS
from dpmix.runs import estimate
from dpmix.runs.build import build_run
from dpmix.runs.config import Config


@pytest.mark.parametrize(("k_base", "groups"), [(1, MAX_CPU_VIEWS), (8, MAX_CPU_VIEWS // 8)])
def test_a_step_is_measured_on_whole_portions(monkeypatch, digits_npz, quick, k_base, groups):
    """A portion that is not full takes as long: a step of 2,048 views was said to take minutes."""
    settings = quick | {"k_base": k_base, "method": "self-aug", "engine": "vectorized"}
    parts = build_run(Config.load(data=str(digits_npz), device="cpu", **settings), trial="dry-run")
    taken = []
    real = estimate.clipped_gradient_sum
    monkeypatch.setattr(estimate, "clipped_gradient_sum", lambda model, loss, views, *a, **k: (
        taken.append(len(views)) or real(model, loss, views, *a, **k)))  # fmt: skip
    estimate.seconds_per_step(parts, estimate.chosen_engine(parts))
    assert set(taken[1:]) == {groups}
