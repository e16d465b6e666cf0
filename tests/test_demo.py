"""The README's promise: the defaults train a classifier of at least 90 % on the digits."""

import statistics

import pytest

import dpmix


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_the_defaults_reach_90_percent(tmp_path):
    runs = [dpmix.fit(output=str(tmp_path / str(seed)), seed=seed) for seed in (0, 1)]
    assert statistics.mean(run.evaluation.accuracy for run in runs) >= 0.90
    for run in runs:
        assert (run.plan.n, run.plan.steps, run.config.views.method) == (4000, 50, "self-aug")
        assert 0.995 * 3 < run.plan.epsilon <= 3
