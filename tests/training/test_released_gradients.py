import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.training.gradient_guard import mark_released, require_released_gradients


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
def test_a_closure_makes_no_gradients_of_its_own(by_name):
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
