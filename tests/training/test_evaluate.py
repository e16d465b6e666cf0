"""Accuracy on a split."""

import pytest
import torch
from torch import nn

from dpmix.data import Normalization, TensorSource
from dpmix.training.evaluate import evaluate, evaluate_logits


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
