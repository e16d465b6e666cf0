"""The weighted sum keeps the order of its groups; weights that prove nothing are refused."""

import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.privacy.randomness import Randomness
from small_run import plan, source, trainer


def test_norms_and_losses_stay_in_the_order_of_the_examples():
    weights = torch.tensor([0.5, 1, 0.25, 1, 0.5, 0.25, 1, 1, 0.5, 0.1, 1, 0.5]).double()
    draws, order = Randomness(1).step(0), torch.tensor([7, 2, 9, 0, 1])
    plain = trainer(plan()).clipped_sum(order, draws)
    found = trainer(plan(), weights=weights).clipped_sum(order, draws)
    torch.testing.assert_close(found.norms, plain.norms)
    torch.testing.assert_close(found.losses, plain.losses)
    assert len({*found.norms.tolist()}) == 5


def test_weights_of_one_change_nothing_at_all():
    draws, everyone = Randomness(1).step(0), torch.arange(12)
    plain = trainer(plan()).clipped_sum(everyone, draws)
    found = trainer(plan(), weights=torch.ones(12).double()).clipped_sum(everyone, draws)
    for one, other in zip(found.gradients, plain.gradients, strict=True):
        assert torch.equal(one, other)


def test_a_step_is_the_weighted_sum_over_the_denominator():
    weights = torch.linspace(0.1, 1, 12).double()
    run = trainer(plan(noise_multiplier=0.0, max_grad_norm=0.25), weights=weights)
    expected = run.clipped_sum(torch.arange(12), Randomness(3).step(0)).gradients
    before = [p.detach().clone() for p in run.model.parameters()]
    run.step()
    for old, new, total in zip(before, run.model.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new.detach(), (total / 5).float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weights", [[0.5] * 11, [0.0] + [1.0] * 11, [1.5] + [1.0] * 11])
def test_other_weights_are_refused(weights):
    with pytest.raises(DpmixError, match=r"weights from .* for 12 images; expected one above 0"):
        trainer(plan(), source(), weights=torch.tensor(weights).double())


def test_a_gradient_of_two_examples_has_no_weight():
    ones = torch.ones(12).double()
    with pytest.raises(DpmixError, match=r"microbatch-mixup joins 2 examples .*--balance none"):
        trainer(plan(sensitivity_multiplier=2), method="microbatch-mixup", weights=ones)
