"""What counts as frozen, and that train_mode leaves it asleep."""

import torch
from torch import nn

from dpmix.models.finetune import frozen_modules, train_mode


def test_frozen_layers_stay_in_eval_and_all_others_wake():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model = nn.Sequential(backbone, nn.Dropout(), nn.Linear(4, 2))
    backbone.requires_grad_(False)
    model.eval()
    train_mode(model)
    assert not any(module.training for module in backbone.modules())
    assert model.training
    assert model[1].training
    assert model[2].training


def test_a_frozen_batch_norm_keeps_its_statistics_under_train_mode():
    norm = nn.BatchNorm1d(3).eval().requires_grad_(False)
    model = nn.Sequential(norm, nn.Linear(3, 2))
    train_mode(model)
    model(torch.randn(8, 3) + 5)
    assert (norm.running_mean == 0).all()


def test_what_is_not_frozen():
    awake = {
        "no parameter: it must wake after an evaluation": nn.Dropout().eval(),
        "buffers only, likewise": nn.BatchNorm1d(3, affine=False).eval(),
        "it would be trained": nn.BatchNorm1d(3).eval(),
        "it would update its mean": nn.BatchNorm1d(3).requires_grad_(False),
    }
    assert [why for why, module in awake.items() if frozen_modules(module)] == []


def test_a_layer_that_was_left_awake_inside_a_frozen_one_stays_awake():
    backbone = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).requires_grad_(False).eval()
    backbone[1].train()
    model = nn.Sequential(backbone, nn.Linear(3, 2))
    assert frozen_modules(model) == {backbone, backbone[0]}
    train_mode(model)
    assert backbone[1].training
    assert not backbone[0].training
