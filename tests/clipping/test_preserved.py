"""What preserved() puts back."""

import random

import pytest
import torch
from torch import nn

from dpmix.clipping.model_check import preserved


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.tensor([1.0, float("nan")]))
        self.register_buffer("later", None)
        self.plain = torch.zeros(2)


@pytest.mark.usefixtures("unchecked")
def test_tensors_modes_and_generators_come_back_even_after_an_error():
    model = nn.Sequential(Holder(), nn.Dropout().eval())
    holder = model[0]
    objects = holder.weight, holder.mean, holder.plain
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    with pytest.raises(RuntimeError, match="boom"), preserved(model), torch.no_grad():
        holder.weight.add_(1)
        holder.mean = torch.zeros(5)
        holder.later = torch.zeros(1)
        holder.plain += 1
        model.train()
        torch.rand(9), random.random()
        raise RuntimeError("boom")
    assert (holder.weight == 1).all()
    assert holder.mean[0] == 1
    assert holder.mean[1].isnan()
    assert holder.later is None
    assert (holder.plain == 0).all()
    now = holder.weight, holder.mean, holder.plain
    assert all(a is b for a, b in zip(objects, now, strict=True))
    assert not model[1].training
    assert (torch.rand(1), random.random()) == expected
