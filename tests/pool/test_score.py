import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpmix.errors import DpmixError
from dpmix.pool.score import PoolScore, count_answers, refuse_uninformative, release_counts

answers = st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=40)


def counted(rows, classes=5):
    right, labels = zip(*rows, strict=True) if rows else ((), ())
    return count_answers(
        torch.tensor(right, dtype=torch.bool), torch.tensor(labels, dtype=torch.int64), classes
    )


@given(answers, st.data())
def test_one_image_changes_one_count_by_one(rows, data):
    gone = data.draw(st.integers(0, len(rows) - 1))
    change = counted(rows) - counted(rows[:gone] + rows[gone + 1 :])
    assert change.abs().sum() == 1 and change.norm() == 1
    assert change[rows[gone][1], 0 if rows[gone][0] else 1] == 1


def test_the_released_counts_have_the_noise_that_is_paid_for():
    sigma, truth = 3.0, counted([(True, 1), (False, 1), (True, 2)])
    noise = torch.stack(
        [
            release_counts(truth, sigma, np.random.default_rng(seed)).counts - truth
            for seed in range(2000)
        ]
    )
    assert abs(float(noise.std()) / sigma - 1) < 0.02 and abs(float(noise.mean())) < 0.1
    assert not torch.equal(noise[0], noise[1])


def test_the_interval_holds_for_nineteen_releases_in_twenty():
    truth = torch.tensor([[900.0, 300.0]] * 4).double()
    scores = [release_counts(truth, 20.0, np.random.default_rng(s)) for s in range(1000)]
    inside = [s.accuracy.low <= 0.75 <= s.accuracy.high for s in scores]
    one = [s.of_class(0).low <= 0.75 <= s.of_class(0).high for s in scores]
    assert 0.93 < np.mean(inside) < 0.97 and 0.93 < np.mean(one) < 0.97


def test_a_release_that_would_say_nothing_is_refused_before_it_is_made():
    refuse_uninformative(images=2000, classes=10, sigma=40, delta=1e-5)
    with pytest.raises(DpmixError, match=r"±25% only \(1000 images, 10 classes\).*--spend"):
        refuse_uninformative(images=1000, classes=10, sigma=40, delta=1e-5)


def test_classes_without_cover_and_advice():
    good = torch.tensor([[90.0, 10.0]] * 9 + [[5.0, 95.0]]).double()
    score = PoolScore(good, sigma=1.0)
    assert score.uncovered() == [9] and "--head-start pool" in score.advice()
    assert math.isclose(score.accuracy.value, 815 / 1000)
    chance = PoolScore(torch.tensor([[10.0, 90.0]] * 10).double(), sigma=1.0)
    assert "leave it out" in chance.advice() and chance.uncovered() == []
    unsure = PoolScore(torch.tensor([[20.0, 80.0]] * 10).double(), sigma=10.0)
    assert "compare" in unsure.advice()
