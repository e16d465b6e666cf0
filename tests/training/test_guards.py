"""What a model must not do while a step looks at data, and what must not be done to it before."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dpmix.clipping.types import soft_cross_entropy
from dpmix.errors import DpmixError
from dpmix.training.guards import mark_released, require_released_gradients
from small_run import plan, trainer


class WarmUp(nn.Module):
    """Keeps a statistic once it is not quiet, which no probe at the start sees."""

    def __init__(self, write):
        super().__init__()
        self.layer = nn.Linear(36, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.plain = torch.zeros(3)
        self.write, self.quiet, self.extra = write, True, []

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state

    def forward(self, x):
        logits = self.layer(x.flatten(1))
        if not self.quiet:
            with torch.no_grad():
                self.write(self, logits.detach().mean(dim=0))
        return logits


WRITES = {
    "a sign of zero": lambda model, _: model.mean.copy_(torch.tensor([-0.0, 0.0, 0.0])),
    "extra state": lambda model, value: setattr(model, "extra", value.tolist()),
    "a gradient": lambda model, value: setattr(model.layer.bias, "grad", value),
    "copy_": lambda model, value: model.mean.copy_(value),
    ".data.copy_": lambda model, value: model.mean.data.copy_(value),
    ".data =": lambda model, value: setattr(model.mean, "data", value),
    "numpy": lambda model, value: np.copyto(model.mean.numpy(), value.numpy()),
    "set_": lambda model, value: model.mean.set_(value.clone()),
    "rebinding": lambda model, value: setattr(model, "mean", value),
    "a new buffer": lambda model, value: model._buffers.setdefault("late", value),
    "a parameter": lambda model, value: model.layer.bias.data.add_(value),
    "a plain attribute": lambda model, value: model.plain.data.copy_(value),
    "a frozen parameter": lambda model, value: model.frozen.data.copy_(value),
}


@pytest.mark.parametrize("how", WRITES)
def test_a_step_in_which_a_value_changes_releases_nothing(how):
    model = WarmUp(WRITES[how])
    if how == "a frozen parameter":
        model.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    run = trainer(plan(), model=model, optimizer=optimizer, engine="examplewise")
    run.step()
    weights = model.layer.weight.detach().clone()
    model.quiet = False
    with pytest.raises(DpmixError, match=r"changed during the step.*Nothing was released"):
        run.step()
    assert torch.equal(model.layer.weight, weights)
    model.quiet = True
    with pytest.raises(DpmixError, match="no other step is taken"):
        run.step()
    assert run.steps_done == 1
    assert not any(value.any() for value in (model.mean, model.plain))


def test_an_interrupt_in_a_step_in_which_a_value_changed_ends_the_trainer_too():
    model = WarmUp(WRITES["copy_"])
    run = trainer(plan(), model=model, engine="examplewise")
    model.quiet = False
    sound, run.loss = run.loss, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(DpmixError, match="changed during the step"):
        run.step()
    model.quiet, run.loss = True, sound
    with pytest.raises(DpmixError, match="no other step is taken"):
        run.step()


def test_values_that_the_caller_changes_between_steps_are_public_and_pass():
    model = WarmUp(WRITES["copy_"])
    run = trainer(plan(), model=model)
    run.step()
    model.mean.fill_(float("nan"))
    run.step()
    assert run.steps_done == 2


@pytest.mark.parametrize("add", [
    lambda layer: layer.weight.register_hook(lambda gradient: None),
    lambda layer: layer.register_forward_hook(lambda *_: None),
    lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    lambda layer: layer.register_full_backward_hook(lambda *_: None),
    lambda layer: setattr(layer, "forward", copy.copy(layer.forward)),
], ids=["gradient", "forward", "pre-forward", "backward", "replaced"])  # fmt: skip
def test_a_hook_that_was_added_later_is_refused_by_the_name_of_its_layer(add):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3))
    run = trainer(plan(), model=model)
    run.step()
    add(model[1])
    with pytest.raises(DpmixError, match=r"layer '1' \(Linear\) was given a .*remove it"):
        run.step()
    assert run.steps_done == 1


def test_a_hook_on_all_modules_is_refused_until_it_is_removed():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    model[1].register_forward_hook(lambda *_: None)  # there when the model is checked: it stays
    run = trainer(plan(), model=model)
    everywhere = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(DpmixError, match="every module was given a forward hook"):
            run.step()
    finally:
        everywhere.remove()
    run.step()


class Watched(nn.Linear):
    pass


@pytest.mark.parametrize("change", [
    lambda model, _: model[1].weight.requires_grad_(False),
    lambda model, _: model[3].weight.requires_grad_(True),
    lambda model, _: setattr(model[1], "weight", nn.Parameter(model[1].weight.detach().clone())),
    lambda model, _: setattr(model[3], "__class__", Watched),
    lambda model, _: setattr(model, "2", nn.Tanh()),
    lambda model, optimizer: optimizer.add_param_group({"params": [model[3].weight]}),
    lambda model, _: model.double(),
], ids=["freeze", "unfreeze", "exchange", "another class", "another layer", "add group", "double"],
)  # fmt: skip
def test_parts_that_change_after_the_trainer_was_made_are_refused_before_a_step(change):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    model[3].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    run = trainer(plan(), model=model, optimizer=optimizer)
    run.step()
    change(model, optimizer)
    with pytest.raises(DpmixError, match="after the trainer was made"):
        run.step()
    assert run.steps_done == 1


def test_an_optimizer_that_evaluates_the_loss_itself_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(DpmixError, match="LBFGS evaluates the loss itself"):
        trainer(plan(), model=model, optimizer=torch.optim.LBFGS(model.parameters()))


@pytest.mark.parametrize("dropout", [False, True])
def test_a_step_leaves_torchs_generator_as_it_was(dropout):
    layers = [nn.Flatten(), nn.Linear(36, 3)] + [nn.Dropout(0.1)] * dropout
    run = trainer(plan(), model=nn.Sequential(*layers), seed=None)
    torch.manual_seed(5)
    ours = torch.get_rng_state()
    run.step()
    assert torch.equal(torch.get_rng_state(), ours)


def guarded(kind=torch.optim.SGD, released=2):
    """Two weights of ones, and an optimizer over them that is guarded twice."""
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = kind(weights, lr=1.0)
    for _ in range(2):
        require_released_gradients(optimizer)
    for weight in weights:
        weight.grad = torch.ones(2)
    mark_released([weight.grad for weight in weights[:released]])
    return weights, optimizer


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_steps_on_released_gradients_alone(kind):
    weights, optimizer = guarded(kind)
    optimizer.step(lambda: None)  # a closure that does nothing is no reason to refuse
    assert all(bool((weight < 1).all()) for weight in weights)
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()  # nothing to step on
    with pytest.raises(DpmixError, match="gradients that no private step released"):
        guarded(kind, released=1)[1].step()


@pytest.mark.parametrize("drop", [False, True])
def test_a_backward_pass_onto_a_released_gradient_is_refused(drop):
    weights, optimizer = guarded()
    if drop:
        optimizer.zero_grad(set_to_none=True)
    weights[0].sum().backward()  # adds in place, where there is a gradient
    with pytest.raises(DpmixError, match="gradients that no private step released"):
        optimizer.step()


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_that_makes_gradients_is_refused(by_name):
    (weight, _), optimizer = guarded()

    def closure():
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    with pytest.raises(DpmixError, match="gradients that no private step released"):
        optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    assert torch.equal(weight, torch.ones(2))


class Running(nn.Module):
    """A loss relative to the mean of all that it has seen."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, logits, labels):
        loss = soft_cross_entropy(logits, labels)
        self.mean.lerp_(loss.mean().detach(), 0.5)
        return loss


class Curriculum:
    def __init__(self):
        self.calls = 0

    def __call__(self, logits, labels):
        self.calls += 1
        return soft_cross_entropy(logits, labels) * self.calls


@pytest.mark.parametrize("loss", [Running(), Curriculum()])
def test_a_loss_that_carries_values_from_one_example_to_the_next_is_refused(loss):
    with pytest.raises(DpmixError, match="use a loss that keeps no state"):
        trainer(plan(), loss=loss)


def test_a_loss_that_draws_at_random_keeps_no_state():
    trainer(plan(), loss=lambda x, y: soft_cross_entropy(x, y) * torch.rand(()))
