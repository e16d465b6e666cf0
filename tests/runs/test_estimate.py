"""What a dry run measures."""

from dataclasses import replace

import pytest

from dpmix.clipping.vectorized import MAX_CPU_VIEWS
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.runs.estimate import seconds_per_step
from dpmix.runs.inputs import FreshViews


class Counting(FreshViews):
    """Notes how many view sets each pass is of."""

    def random_views(self, groups, rng):
        self.__dict__.setdefault("asked", []).append(groups)
        return super().random_views(groups, rng)


@pytest.mark.parametrize(("k_base", "groups"), [(1, MAX_CPU_VIEWS), (8, MAX_CPU_VIEWS // 8)])
def test_a_step_is_measured_on_whole_portions(digits_npz, quick, k_base, groups):
    """A portion that is not full takes as long: 2,048 views would seem to take minutes."""
    settings = quick | {"k_base": k_base, "method": "self-aug", "engine": "vectorized"}
    run = build_run(Config.load(data=str(digits_npz), device="cpu", **settings), trial=True)
    inputs = Counting(run.views, run.splits, run.model, run.device)
    assert seconds_per_step(replace(run, inputs=inputs), run.trainer().engine) > 0
    assert set(inputs.asked[1:]) == {groups}
