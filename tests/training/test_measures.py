"""Measures against scikit-learn, and their intervals against what they must cover."""

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from dpmix.training.answers import Answers, best_thresholds, decide
from dpmix.training.calibration import Calibration
from dpmix.training.measures import RANKING, at_thresholds, measures
from dpmix.training.resamples import hits, ranking, resample_count, weights
from dpmix.training.values import decision_values, rankings


def one_class(images=300, classes=4, seed=0, owner=None, shift=1.0, digits=None):
    """Answers about images of one class each; fewer `digits` make ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    scores = rng.normal(size=(images, classes)) + shift * np.eye(classes)[labels]
    if digits is not None:
        scores = scores.round(digits)
    sure = torch.from_numpy(scores).float().softmax(dim=1)
    names = tuple("abcdefgh"[:classes])
    return Answers(sure, torch.from_numpy(labels), names, owner)


def several_labels(images=200, seed=1):
    """Answers about three labels, a fifth of which are unknown."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (images, 3))
    sure = torch.from_numpy(rng.normal(size=(images, 3)) + labels).float().sigmoid()
    labels[rng.random((images, 3)) < 0.2] = -1
    return Answers(sure, torch.from_numpy(labels), ("x", "y", "z"), None)


def sensitivity_at_90(truth, score):
    false, true, _ = reference.roc_curve(truth, score, drop_intermediate=False)
    return true[false <= 0.1 + 1e-9].max()


def expected_rankings(truth, score):
    return {
        "auroc": reference.roc_auc_score(truth, score),
        "average_precision": reference.average_precision_score(truth, score),
        "sensitivity_at_90_specificity": sensitivity_at_90(truth, score),
    }


@pytest.mark.parametrize("digits", [None, 0])
def test_of_several_classes_they_are_those_of_scikit_learn(digits):
    answers = one_class(digits=digits)
    found, labels = measures(answers), answers.labels.numpy()
    predicted = answers.probabilities.argmax(1).numpy()
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "macro_f1": reference.f1_score(labels, predicted, average="macro"),
    }
    by_class = [
        expected_rankings(labels == place, answers.probabilities[:, place]) for place in range(4)
    ]
    expected |= {name: np.mean([one[name] for one in by_class]) for name in RANKING}
    for name, value in expected.items():
        assert found.overall[name].value == pytest.approx(value, abs=1e-5), name
        assert found.overall[name].low <= value + 1e-6 and value - 1e-6 <= found.overall[name].high
    for place, name in enumerate(answers.names):
        for measure, value in by_class[place].items():
            assert found.by_class[name][measure].value == pytest.approx(value, abs=1e-5)
    assert (found.left_out, found.units, found.images) == (0, "images", 300)


def test_of_two_classes_the_second_is_the_positive_one():
    answers = one_class(classes=2, digits=1)
    found, score = measures(answers).overall, answers.probabilities[:, 1]
    for name, value in expected_rankings(answers.labels, score).items():
        assert found[name].value == pytest.approx(value, abs=1e-5)


def test_unknown_labels_are_left_out_label_by_label():
    answers = several_labels()
    found = measures(answers)
    for place, name in enumerate(answers.names):
        known = answers.labels[:, place] >= 0
        expected = expected_rankings(
            answers.labels[known, place], answers.probabilities[known, place]
        )
        for measure, value in expected.items():
            assert found.by_class[name][measure].value == pytest.approx(value, abs=1e-5)
    known = answers.labels >= 0
    right = ((answers.probabilities >= 0.5) == (answers.labels == 1))[known].float().mean()
    assert found.overall["labels_right"].value == pytest.approx(float(right))
    assert "accuracy" not in found.overall


def test_a_class_without_both_kinds_of_images_is_left_out_and_counted():
    answers = one_class(classes=3)
    answers.labels[answers.labels == 2] = 0
    found = measures(answers)
    assert found.left_out == 1 and not {"auroc", "recall"} & {*found.by_class["c"]}
    labels, predicted = answers.labels, answers.probabilities.argmax(1)
    pair = [expected_rankings(labels == c, answers.probabilities[:, c])["auroc"] for c in (0, 1)]
    assert found.overall["auroc"].value == pytest.approx(np.mean(pair), abs=1e-5)
    recalls = [float((predicted[labels == c] == c).float().mean()) for c in (0, 1)]
    assert found.overall["balanced_accuracy"].value == pytest.approx(np.mean(recalls), abs=1e-6)


@pytest.mark.parametrize("answers", [one_class(digits=0), several_labels()], ids=["one", "several"])
def test_a_resample_has_the_values_that_its_images_would_have(answers):
    """What is computed from weights equals what torchmetrics says of the repeated images."""
    count = len(answers.labels)
    weight = next(weights(torch.arange(count), 3))
    for times in weight:
        rows = torch.arange(count).repeat_interleave(times.long())
        again = answers.part(rows)
        for place, name in enumerate(answers.names):
            known = answers.targets[:, place] >= 0
            score, truth = answers.column(place)
            found = ranking(times[None, known], score, truth == 1)
            for measure in RANKING:
                expected = float(rankings(again, measure)[measure][place])
                assert float(found[measure]) == pytest.approx(expected, abs=1e-5), (name, measure)
        error = Calibration.of(answers).resampled(times[None])
        assert float(error) == pytest.approx(Calibration.of(again).error(), abs=1e-5)
        if not answers.several:
            decisions = decide(answers.probabilities, None)
            found = hits(times[None], decisions, answers.targets)
            for measure, value in decision_values(again, decisions[rows]).items():
                torch.testing.assert_close(found[measure][0], value, atol=1e-5, rtol=0)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Scores of two normal distributions a distance of 1 apart: AUROC is Phi(1 / sqrt 2)."""
    truth, inside, trials = 0.76025, 0, 150
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        labels = torch.from_numpy(rng.integers(0, 2, 120))
        second = torch.from_numpy(rng.normal(size=120)).float() + labels
        sure = torch.stack([1 - second.sigmoid(), second.sigmoid()], dim=1)
        found = measures(Answers(sure, labels, ("a", "b"), None)).overall["auroc"]
        inside += found.low <= truth <= found.high
    # Of 150 intervals at 95 %, fewer than 132 or all would happen once in a thousand times.
    assert 132 <= inside < 150


def test_more_images_of_the_same_persons_make_no_interval_narrower():
    once = one_class(images=100, owner=torch.arange(100), classes=2)
    copies = once.part(torch.arange(100).repeat(4))
    alone, fourfold = measures(once), measures(copies)
    assert (fourfold.units, fourfold.unit_count, fourfold.images) == ("persons", 100, 400)
    independent = measures(Answers(copies.probabilities, copies.labels, copies.names, None))
    for name, one in alone.overall.items():
        width = one.high - one.low
        other, free = fourfold.overall[name], independent.overall[name]
        assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=2e-3), name
        assert free.high - free.low < 0.7 * width, name


def test_a_share_of_independent_images_that_are_all_right_has_no_point_as_its_interval():
    answers = one_class(images=20, classes=2, shift=50.0)
    found = measures(answers).overall["accuracy"]
    # Clopper and Pearson: the 20th root of 0.025.
    assert (found.value, found.high) == (1, 1) and found.low == pytest.approx(0.025 ** (1 / 20))


def test_the_number_of_resamples_falls_with_the_work():
    assert resample_count(1000, 2) == 1000 and resample_count(10_000, 10) == 500
    assert resample_count(1_000_000, 1000) == 100


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_best_of_all_that_differ(seed):
    answers = one_class(images=60, classes=2, seed=seed, digits=1)
    (found,) = best_thresholds(answers)
    score, truth = answers.probabilities[:, 1].numpy(), answers.labels.numpy() == 1

    def youden(threshold):
        above = score >= threshold
        return above[truth].mean() + (~above)[~truth].mean()

    assert youden(found) == pytest.approx(max(youden(one) for one in [*score, 2.0]))
    assert found not in score


def test_labels_have_thresholds_of_their_own_and_one_of_a_kind_has_none_that_is_better():
    answers = several_labels()
    answers.labels[:, 2] = 1
    found = best_thresholds(answers)
    assert len(found) == 3 and found[2] == 0.5 and found[0] != found[1]


def test_decisions_with_and_without_thresholds():
    sure = torch.tensor([[0.7, 0.3], [0.4, 0.6]])
    assert decide(sure, None).tolist() == [[True, False], [False, True]]
    assert decide(sure, [0.3]).tolist() == [[False, True], [False, True]]
    assert decide(sure, [0.7, 0.5]).tolist() == [[True, False], [False, True]]
    assert decide(sure, [0.1, 0.9]).tolist() == [[True, False], [True, False]]


def test_measures_at_a_threshold_are_those_of_its_decisions():
    answers = one_class(classes=2)
    found = at_thresholds(answers, [0.3], chosen_here=True)
    labels, predicted = answers.labels.numpy(), (answers.probabilities[:, 1] >= 0.3).numpy()
    (tn, fp), (fn, tp) = reference.confusion_matrix(labels, predicted)
    assert found.confusion == {"a": {"a": tn, "b": fp}, "b": {"a": fn, "b": tp}}
    expected = {
        "accuracy": (tp + tn) / 300, "sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp),
        "macro_f1": reference.f1_score(labels, predicted, average="macro"),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
    }  # fmt: skip
    assert {name: one.value for name, one in found.overall.items()} == pytest.approx(expected)
