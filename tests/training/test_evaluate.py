"""Accuracy on a split."""

from dataclasses import asdict

import pytest
import torch
from torch import nn

from dpmix.data import Normalization, TensorSource
from dpmix.errors import DpmixError
from dpmix.training.evaluate import InFull, evaluate, evaluate_logits
from dpmix.training.loop import History
from several_labels import LABELS, Labelled, groups, several


class Brightness(nn.Module):
    """Calls an image bright when its mean is above the normalised zero; drops out in training."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.9)

    def forward(self, images):
        mean = self.dropout(images.mean(dim=(1, 2, 3)) * self.scale)
        return torch.stack([-mean, mean], dim=1)


def test_accuracies_by_hand_and_modes_put_back():
    levels = torch.tensor([0, 250, 10, 240, 255], dtype=torch.uint8)
    pixels = levels[:, None, None, None].expand(5, 1, 4, 4).contiguous()
    labels = torch.tensor([0, 1, 1, 1, 0])
    source = TensorSource(pixels, labels, ("dark", "bright"))
    model = Brightness().train()
    result = evaluate(model, source, Normalization((0.5,), (0.5,)), torch.device("cpu"))
    assert result.accuracy == pytest.approx(3 / 5)
    assert result.class_accuracy == {"dark": pytest.approx(1 / 2), "bright": pytest.approx(2 / 3)}
    assert result.worst_class == ("dark", pytest.approx(1 / 2))
    assert result.confusion == {
        "dark": {"dark": 1, "bright": 1},
        "bright": {"dark": 1, "bright": 2},
    }
    assert result.images == 5
    assert model.training and model.dropout.training


def test_calibration_error_is_the_gap_of_confidence_and_accuracy():
    """Ten images at confidence 0.8 of which six are right, ten at 0.9 of which nine are."""
    sure = torch.tensor([0.8] * 10 + [0.9] * 10)
    scores = torch.stack([sure.log(), (1 - sure).log()], dim=1)
    labels = torch.tensor([0] * 6 + [1] * 4 + [0] * 9 + [1])
    source = TensorSource(torch.zeros(20, 1, 1, 1, dtype=torch.uint8), labels, ("a", "b"))
    found = evaluate_logits(scores, source)
    assert found.calibration_error == pytest.approx(0.1, abs=1e-6)
    low, high = found.reliability
    assert low == {"images": 10, "confidence": pytest.approx(0.8), "accuracy": 0.6}
    assert high == {"images": 10, "confidence": pytest.approx(0.9), "accuracy": 0.9}


@pytest.mark.parametrize("sharpness", [0.1, 3.0, 1000.0])
def test_the_gaps_of_the_bins_add_up_to_the_calibration_error(sharpness):
    """A softmax as sharp as the last says 1 of every image, which torchmetrics bins apart."""
    generator = torch.Generator().manual_seed(3)
    scores = sharpness * torch.randn(500, 4, generator=generator)
    labels = torch.randint(0, 4, (500,), generator=generator)
    source = TensorSource(torch.zeros(500, 1, 1, 1, dtype=torch.uint8), labels, tuple("abcd"))
    found = evaluate_logits(scores, source)
    gaps = [one["images"] * abs(one["confidence"] - one["accuracy"]) for one in found.reliability]
    assert sum(gaps) / 500 == pytest.approx(found.calibration_error, abs=1e-6)
    assert sum(one["images"] for one in found.reliability) == 500


def test_a_model_that_diverged_is_judged_all_the_same():
    source = TensorSource(torch.zeros(4, 1, 1, 1, dtype=torch.uint8), torch.arange(4) % 2,
                          ("a", "b"))  # fmt: skip
    found = evaluate_logits(torch.full((4, 2), torch.nan), source)
    assert found.images == 4 and found.calibration_error == pytest.approx(0.0, abs=1e-6)


def test_several_labels_are_scored_by_auroc_and_unknown_ones_do_not_count():
    source, scores = several()
    found = evaluate_logits(scores, source)
    assert (found.measure, found.accuracy, found.confusion) == ("mean AUROC", None, {})

    def pairs(place):
        """The share of pairs of an image with the label and one without that are in order."""
        truth = source.labels[:, place]
        gaps = scores[truth == 1, place][:, None] - scores[truth == 0, place][None]
        return float(((gaps > 0).float() + (gaps == 0).float() / 2).mean())

    expected = {name: pairs(place) for place, name in enumerate(LABELS)}
    assert found.class_scores == pytest.approx(expected, abs=1e-5)
    assert found.score == pytest.approx(sum(expected.values()) / 3, abs=1e-5)
    known = source.labels >= 0
    sure, truth = scores.sigmoid()[known], source.labels[known]
    loss = -(truth * sure.log() + (1 - truth) * (1 - sure).log()).mean()
    assert found.loss == pytest.approx(float(loss), abs=1e-5)
    assert sum(one["images"] for one in found.reliability) == int(known.sum())
    source.labels.fill_(-1)
    with pytest.raises(DpmixError, match="none of the labels Cardiomegaly, Effusion, Pneumonia"):
        evaluate_logits(scores, source)


def test_measures_thresholds_and_groups_are_of_the_evaluation_in_full_alone():
    source, scores = several()
    short = evaluate_logits(scores, source)
    assert (short.measures, short.decisions, short.subgroups) == (None, None, {})
    listed = groups(len(source), "F", "M", None)
    found = evaluate_logits(scores, source, InFull(groups=listed))
    assert found.decisions is None, "only validation images choose thresholds"
    women = Labelled(source.labels[0::3], LABELS)
    alone = asdict(evaluate_logits(scores[0::3], women, InFull()).measures)["overall"]
    group = asdict(found.subgroups["sex"].groups["F"])["overall"]
    assert {**group} == {name: pytest.approx(one, abs=1e-6) for name, one in alone.items()}
    assert evaluate_logits(scores, source, InFull(chosen_here=True)).decisions.chosen_here
    given = evaluate_logits(scores, source, InFull(thresholds=(0.2, 0.5, 0.9))).decisions
    assert given.thresholds == [0.2, 0.5, 0.9] and not given.chosen_here


def test_an_evaluation_survives_a_checkpoint():
    source, scores = several()
    found = evaluate_logits(
        scores, source, InFull(chosen_here=True, groups=groups(len(source), "F", "M"))
    )
    history = History([{"step": 1, "epsilon": 1.0, "score": found.score}], found)
    assert History.of(asdict(history)) == history
