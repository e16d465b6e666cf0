"""Out of memory: a step continues with fewer views at a time, to the same result."""

import pytest
import torch
from torch import nn

from dpmix.errors import DpmixError
from small_run import plan, source, trainer

PETABYTE = 1 << 50


class Hungry(nn.Module):
    """Linear; asks for more memory than there is where it is given more than `most` images."""

    def __init__(self, most):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.most = nn.Linear(36, 3), most

    def forward(self, images):
        if self.training and self.most < len(images) < 100:
            torch.empty(PETABYTE)
        return self.linear(images.flatten(1))


def step(most, **settings):
    """The weights after a step of eight views an example, which starts when all of them fit."""
    model = Hungry(100)
    run = trainer(plan(), source(), model=model, method="mix-self", engine="examplewise",
                  **settings)  # fmt: skip
    model.most = most
    run.step()
    return model.linear.weight.detach(), run


def test_a_step_continues_with_fewer_views_at_a_time_to_the_same_result():
    expected, _ = step(100)
    with pytest.warns(
        UserWarning, match="out of memory: repeating the step with engine examplewise, 1 view"
    ):
        got, run = step(2)
    assert torch.allclose(got, expected, atol=1e-6)
    assert run.engine.view_chunk == 1 and run.steps_done == 1
    run.step()
    assert run.steps_done == 2


def test_where_that_does_not_help_the_step_says_what_may():
    with pytest.warns(UserWarning), pytest.raises(DpmixError, match="give --view-chunk 1"):
        step(0)


def test_other_errors_are_not_taken_for_it(monkeypatch):
    monkeypatch.setattr(Hungry, "forward", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(Exception, match=r"size|inconsistent"):
        step(100)
