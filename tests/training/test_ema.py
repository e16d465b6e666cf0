"""The moving average of the weights."""

import torch
from torch import nn

from dpmix.training.ema import Ema


def test_decay_warms_up_as_de_et_al_and_is_capped():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, decay=0.25)
    expected = 0.0
    for step, weight in enumerate([1.0, 2.0, -3.0, 5.0]):
        nn.init.constant_(model.weight, weight)
        ema.update()
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
        assert ema.weights()["weight"].item() == torch.tensor(expected).item()


def test_applied_puts_the_own_weights_back_even_after_an_error():
    model = nn.Linear(2, 1)
    ema = Ema(model, decay=0.9)
    own = model.weight.detach().clone() + 1
    with torch.no_grad():
        model.weight.add_(1)
    try:
        with ema.applied() as averaged:
            assert not torch.equal(averaged.weight, own)
            raise RuntimeError("evaluation failed")
    except RuntimeError:
        pass
    assert torch.equal(model.weight, own)


def test_frozen_parameters_and_buffers_come_from_the_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    model.register_buffer("constant", torch.tensor(3.0))
    weights = Ema(model, decay=0.9).weights()
    assert set(weights) == set(model.state_dict())
    assert weights["constant"].item() == 3.0
