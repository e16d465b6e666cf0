"""The tests of an audit accuse no sound mechanism: p-values are as rare as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import dpmix.audit.invariants as invariants
from audit_subject import audit, plan
from dpmix.audit.invariants import (
    RISK,
    DrawChecks,
    NoiseChecks,
    by_chance,
    exactly,
)


@pytest.fixture
def p_values(monkeypatch):
    """Of every test that is made from here on, by what it looks for."""
    seen = {}

    def noted(name, found, tests):
        for what, p in tests.items():
            seen.setdefault(what, []).append(p)
        return by_chance(name, found, tests)

    monkeypatch.setattr(invariants, "by_chance", noted)
    return seen


def noise_of(sizes, steps, rng):
    tests = NoiseChecks(plan(steps=steps), sizes, 0.0, rng)
    for _ in range(steps):
        tests.add(0.5 * rng.standard_normal(sum(sizes)), rng.standard_normal(sum(sizes)))
    return tests.size(), tests.independence()


def draws_of(examples, rate, steps, rng):
    tests = DrawChecks(np.arange(examples) % 3, examples, rate)
    for _ in range(steps):
        tests.add(np.flatnonzero(rng.random(examples) < rate))
    return tests.found()


@pytest.mark.parametrize(
    ("make", "tests"),
    [
        *((lambda rng, case=case: noise_of(*case, rng), 8)
          for case in (([3], 2), ([50, 1], 8), ([700, 20], 3))),
        *((lambda rng, case=case: draws_of(*case, rng), 7)
          for case in ((4, 0.02, 60), (60, 0.2, 40), (300, 0.05, 30), (40, 0.9, 8))),
    ],
)  # fmt: skip
def test_small_p_values_of_sound_noise_and_of_poisson_draws_are_rare(p_values, make, tests):
    rng = np.random.default_rng(0)
    for _ in range(100):
        make(rng)
    assert len(p_values) >= tests
    for what, found in p_values.items():
        small = sum(p < 0.02 for p in found)
        assert stats.binom(100, 0.02).sf(small - 1) > 1e-3, (what, small)


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 999),
    st.floats(1e-3, 1), st.integers(1, 200),
)  # fmt: skip
def test_no_sizes_are_too_small_for_a_verdict(sizes, steps, seed, rate, examples):
    rng = np.random.default_rng(seed)
    assert all(one.holds for one in noise_of(sizes, steps, rng))
    assert draws_of(examples, rate, steps, rng).holds


def test_a_false_alarm_comes_less_than_once_in_ten_thousand_audits(p_values):
    assert not audit(plan(sampling_rate=0.5, steps=4), canaries=50, runs=1).violated
    assert len(p_values) * RISK < 1e-4 / 2


def test_what_failed_is_named():
    assert by_chance("noise", "as it is", {"one": 0.5, "two": 0.03}).found == ("as it is (p 0.06)")
    found = by_chance("noise", "as it is", {"one": 1e-9, "two": 0.03})
    assert not found.holds and found.found == "as it is (one: p 1e-09)"
    assert not by_chance("noise", "", {"one": float("nan")}).holds
    assert exactly("views", "all well", []).found == "all well"
    found = exactly("views", "all well", ["a", "c"])
    assert not found.holds and found.found == "a; c"
