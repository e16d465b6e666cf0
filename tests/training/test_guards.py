"""What a model must not do while a step looks at data, and what must not be done to it before."""

import copy

import pytest
import torch
from torch import nn

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


def by_numpy(model, value):
    model.mean.numpy()[:] = value.numpy()


def by_rebinding(model, value):
    model.mean = value


def by_a_new_name(model, value):
    if "late" not in model._buffers:
        model.register_buffer("late", value)


def of_a_parameter(model, value):
    model.layer.bias.data.add_(value)


def a_sign_of_zero(model, value):
    model.mean.copy_(torch.tensor([-0.0, 0.0, 0.0]))


def extra_state(model, value):
    model.extra = value.tolist()


def another_gradient(model, value):
    model.layer.bias.grad = value


def by_set(model, value):
    model.mean.set_(value.clone())


WRITES = {
    "a sign of zero": a_sign_of_zero,
    "extra state": extra_state,
    "a gradient": another_gradient,
    "copy_": lambda model, value: model.mean.copy_(value),
    ".data.copy_": lambda model, value: model.mean.data.copy_(value),
    ".data =": lambda model, value: setattr(model.mean, "data", value),
    "numpy": by_numpy,
    "set_": by_set,
    "rebinding": by_rebinding,
    "a new buffer": by_a_new_name,
    "a parameter": of_a_parameter,
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


def watched_gradient(model):
    model[1].weight.register_hook(lambda gradient: None)


def watched_output(model):
    model[1].register_forward_hook(lambda *_: None)


def watched_input(model):
    model[1].register_forward_pre_hook(lambda *_: None)


def watched_backward(model):
    model[1].register_full_backward_hook(lambda *_: None)


def replaced_forward(model):
    model[1].forward = copy.copy(model[1].forward)


@pytest.mark.parametrize("engine", ["examplewise", "vectorized"])
@pytest.mark.parametrize(
    "add", [watched_gradient, watched_output, watched_input, watched_backward, replaced_forward]
)
def test_a_hook_that_was_added_later_is_refused_by_the_name_of_its_layer(add, engine):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3))
    run = trainer(plan(), model=model, engine=engine)
    run.step()
    add(model)
    with pytest.raises(DpmixError, match=r"layer '1' \(Linear\) was given a .*remove it"):
        run.step()
    assert run.steps_done == 1


def test_a_hook_on_all_modules_is_refused_until_it_is_removed():
    run = trainer(plan())
    everywhere = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(DpmixError, match="every module was given a forward hook"):
            run.step()
    finally:
        everywhere.remove()
    run.step()


def test_hooks_that_were_there_when_the_model_was_checked_stay():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    model[1].register_forward_hook(lambda *_: None)
    trainer(plan(), model=model).step()


def freeze(model, optimizer):
    model[1].weight.requires_grad_(False)


def unfreeze(model, optimizer):
    model[3].weight.requires_grad_(True)


def exchange(model, optimizer):
    model[1].weight = nn.Parameter(model[1].weight.detach().clone())


class Watched(nn.Linear):
    pass


def another_class(model, optimizer):
    model[3].__class__ = Watched


def another_layer(model, optimizer):
    model[2] = nn.Tanh()


def add_group(model, optimizer):
    optimizer.add_param_group({"params": [model[3].weight]})


def double(model, optimizer):
    model.double()


@pytest.mark.parametrize(
    "change", [freeze, unfreeze, exchange, add_group, double, another_class, another_layer]
)
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


def guarded():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    require_released_gradients(optimizer)
    return weight, optimizer


def stepped(kind, *, marked):
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = kind(weights, lr=1.0)
    for _ in range(2):  # as often as it likes
        require_released_gradients(optimizer)
    for weight in weights:
        weight.grad = torch.ones(2)
    mark_released([weight.grad for weight in weights[:marked]])
    optimizer.step()
    return weights


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_steps_on_released_gradients_alone(kind):
    assert all(bool((weight < 1).all()) for weight in stepped(kind, marked=2))
    with pytest.raises(DpmixError, match="gradients that no private step released"):
        stepped(kind, marked=1)


def test_parameters_without_a_gradient_are_let_be():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
    require_released_gradients(optimizer)
    optimizer.step()


def test_a_backward_pass_on_top_of_a_released_gradient_is_no_way_round():
    """It takes the gradient's place only after the step has dropped it."""
    weight, optimizer = guarded()
    weight.grad = torch.ones(2)
    mark_released([weight.grad])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    weight.sum().backward()
    with pytest.raises(DpmixError):
        optimizer.step()


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_makes_no_gradients(by_name):
    weight, optimizer = guarded()

    def closure():
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    with pytest.raises(DpmixError, match="gradients that no private step released"):
        optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    assert torch.equal(weight, torch.ones(2))


def test_a_released_gradient_that_was_added_to_is_released_no_more():
    weight, optimizer = guarded()
    weight.grad = torch.ones(2)
    mark_released([weight.grad])
    weight.sum().backward()  # adds in place
    with pytest.raises(DpmixError, match="gradients that no private step released"):
        optimizer.step()


def test_a_closure_that_does_nothing_is_let_be():
    weight, optimizer = guarded()
    weight.grad = torch.ones(2)
    mark_released([weight.grad])
    optimizer.step(lambda: None)
    assert torch.equal(weight, torch.zeros(2))
