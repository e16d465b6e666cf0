"""A training in two phases: the same mechanism at every step, on the head and then on all."""

import pytest
import torch
from torch import nn

from dpmix.errors import DpmixError
from dpmix.privacy.noise import GaussianNoise
from dpmix.training.phases import HeadFirst
from small_run import plan, source, trainer


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


class Recorded(GaussianNoise):
    """Keeps what was clipped and what was released, at every step."""

    def __init__(self, plan):
        super().__init__(plan)
        self.denominator = plan.denominator
        self.given, self.noise = [], []

    def release(self, total, noise):
        before = [one.clone() for one in total]
        released = super().release(total, noise)
        self.given.append(torch.cat([one.flatten() for one in before]))
        after = torch.cat([one.flatten() for one in released]) * self.denominator
        self.noise.append(after - self.given[-1])
        return released


def two_phases(steps=4, early=2, *, model=None, **settings):
    model = network() if model is None else model
    run = plan(steps=steps)
    return trainer(run, model=model, head_first=HeadFirst(model[4], early), **settings)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(model, before):
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


HEAD, ALL = {"4.weight", "4.bias"}, {"1.weight", "1.bias", "4.weight", "4.bias"}


@pytest.mark.parametrize("optimizer", [
    lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
])  # fmt: skip
def test_a_step_changes_the_weights_of_its_phase_and_no_others(optimizer):
    model = network()
    run = two_phases(model=model, optimizer=optimizer(model.parameters()))
    for step in range(4):
        before = weights(model)
        run.step()
        assert changed(model, before) == (HEAD if step < 2 else ALL)
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with pytest.raises(DpmixError, match="all 4 steps of the plan are done"):
        run.step()


def test_each_step_clips_to_c_over_what_it_trains_and_its_noise_is_sigma_c():
    steps, early = 400, 200
    noise = Recorded(plan(steps=steps))
    data = source(count=1)
    run = two_phases(steps, early, noise=noise, data=data)
    for _ in range(steps):
        run.step()
    bound, sigma = run.plan.max_grad_norm, run.plan.noise_multiplier
    lengths = [len(one) for one in noise.given]
    assert lengths == [27] * early + [323] * early  # 8 x 3 + 3, and 36 x 8 + 8 more
    # One example, always drawn: what it adds.
    norms = torch.stack([one.norm() for one in noise.given])
    for some in norms.split(early):
        assert some.max().item() == pytest.approx(bound, rel=1e-9)
    for some in (noise.noise[:early], noise.noise[early:]):
        found = torch.cat(some).std().item()
        assert found == pytest.approx(sigma * bound, rel=0.05)


def test_the_first_phase_is_a_training_of_the_head_and_the_second_one_of_all():
    model, alone = network(), network()
    run = two_phases(model=model)
    alone[1].requires_grad_(False).eval()
    head = trainer(plan(), model=alone, optimizer=torch.optim.SGD(alone[4].parameters(), lr=1.0))
    for _ in range(2):
        run.step()
        head.step()
    assert not changed(model, weights(alone))
    # From here on as a training of all weights that resumes there.
    whole = network()
    whole.load_state_dict(model.state_dict())
    rest = trainer(plan(), model=whole)
    rest.resume({"plan": rest.state()["plan"], "steps_done": 2})
    for _ in range(2):
        run.step()
        rest.step()
    assert not changed(model, weights(whole))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_another_trainer_resumes_in_either_phase(at):
    first, second = network(), network()
    run = two_phases(model=first)
    for _ in range(at):
        run.step()
    second.load_state_dict(first.state_dict())
    resumed = two_phases(model=second)
    resumed.resume(run.state())
    for _ in range(4 - at):
        run.step()
        resumed.step()
    assert not changed(first, weights(second))


def test_dropout_below_a_frozen_part_stays_as_it_trains():
    run = two_phases()
    run.step()
    # The head's inputs are dropped in both phases, as in a training of the head alone.
    assert run.model[3].training


def test_what_can_not_be_meant_is_refused():
    with pytest.raises(DpmixError, match="head_steps is 5; expected 0 to 4"):
        two_phases(early=5)
    model = network()
    model[4].requires_grad_(False)
    with pytest.raises(DpmixError, match="no trainable weight"):
        trainer(
            plan(), model=model, head_first=HeadFirst(model[4], 2),
            optimizer=torch.optim.SGD(model[1].parameters(), lr=1.0),
        )  # fmt: skip


def test_weights_that_are_frozen_after_the_trainer_was_made_are_seen():
    model = network()
    run = two_phases(model=model)
    run.step()
    model[1].weight.requires_grad_(False)
    with pytest.raises(DpmixError, match="were frozen, unfrozen"):
        run.step()
