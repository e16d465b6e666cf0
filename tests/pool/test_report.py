"""What a gap check writes down, and that the record composes."""

import json
import math

import pytest

from dpmix.errors import DpmixError
from dpmix.pool.score import Budget, reserved
from dpmix.privacy.accounting import epsilon_pld
from dpmix.privacy.prior_releases import read_prior_releases


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-6), (1.0, 1e-5)])
def test_a_budget_is_the_least_noise_of_one_gaussian_release(epsilon, delta):
    budget = Budget.of(epsilon, delta)
    record = budget.record()
    assert record.epsilon <= epsilon
    assert record.epsilon == pytest.approx(epsilon, rel=5e-3)
    assert record.epsilon == epsilon_pld(1.0, math.inf, 0, delta, (budget.sigma,))


@pytest.mark.parametrize(
    ("epsilon", "delta", "said"),
    [(0, 1e-6, "spend is 0"), (-1, 1e-6, "spend is -1"), (math.nan, 1e-6, "spend is nan"),
     (0.1, 0, "delta is 0"), (0.1, 1, "delta is 1")],
)  # fmt: skip
def test_a_budget_that_cannot_be_meant_is_refused(epsilon, delta, said):
    with pytest.raises(DpmixError, match=said):
        Budget.of(epsilon, delta)


def test_the_report_of_a_release_is_read_by_a_run(tmp_path):
    record = Budget.of(0.5, 1e-6).record()
    path = tmp_path / "gap.json"
    path.write_text(json.dumps({"advice": "use", "release": record.model_dump()}))
    assert read_prior_releases((str(path),)) == (record.noise_multiplier,)


def test_a_place_is_held_while_the_check_runs_and_freed_if_it_fails(tmp_path):
    path = tmp_path / "gap.json"
    with pytest.raises(RuntimeError), reserved(path):
        assert path.exists()
        raise RuntimeError
    assert not path.exists()
    with reserved(path):
        path.write_text("{}")
    with pytest.raises(DpmixError, match="is there already; a report records what was spent"):
        reserved(path).__enter__()
    assert path.read_text() == "{}"
    with pytest.raises(DpmixError, match="nothing was spent"):
        reserved(tmp_path / "gone" / "gap.json").__enter__()
