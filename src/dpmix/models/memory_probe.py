"""Refuse a model whose gradient depends on what it saw before, whatever it keeps that in.

Guarantees that a model which passes gives a batch of public noise the same logits and gradients,
with the same coins, whether a few other batches came before it or not. Numbers, lists, caches and
hooks of modules count as well as tensors. What shows only after more passes, or for larger batches,
is not seen here; where a buffer holds it, ``PrivateTrainer`` refuses the step in which it moves.
The test is ``tests/models/test_memory_probe.py``.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.errors import DpmixError
from dpmix.models.frozen import train_mode
from dpmix.models.preserved import RandomState

# A drift of a part in 10,000 a pass adds up to more than the tolerance.
_PASSES_BETWEEN = 5
_TOLERANCE = 1e-5
# Off the CPU kernels need not repeat to the bit.
_TOLERANCE_OFF_CPU = 1e-2


def refuse_memory(
    model: nn.Module, batch: Float[Tensor, "B ..."], other: Float[Tensor, "B ..."]
) -> None:
    """Compare passes over `batch` with and without passes over `other` before them.

    Runs on copies, one that sees `batch` first and one that sees `other` first: state that the
    first batch sets for good shows between them.

    Raises:
        DpmixError: they differ, or the model can't be copied.
    """
    coins = RandomState(model)
    batch_first, other_first = copy_of(model), copy_of(model)
    expected = _pass(batch_first, batch, coins)
    for subject in (batch_first, other_first):
        for _ in range(_PASSES_BETWEEN):
            _pass(subject, other, coins)
        _compare(model, expected, _pass(subject, batch, coins))


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, to be probed in place of the model.

    Raises:
        DpmixError: the model can't be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DpmixError(
            f"model {type(model).__name__} can't be copied, so what it keeps between passes can't "
            f"be checked: {reason}; expected one that copy.deepcopy takes"
        ) from error


def _pass(model: nn.Module, x: Tensor, coins: RandomState) -> Tensor:
    """Logits and gradients of one forward and backward in train mode, in one vector."""
    train_mode(model)
    coins.replay()
    logits = model(x)
    loss = (logits.logsumexp(dim=1) - logits[:, 0]).sum()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    used = [gradient for gradient in gradients if gradient is not None]
    if not used:
        raise DpmixError(
            f"model {type(model).__name__} uses none of its trainable parameters, or runs another "
            "module's; expected gradients"
        )
    return torch.cat([part.detach().flatten().double().cpu() for part in (logits, *used)])


def _compare(model: nn.Module, one: Tensor, two: Tensor) -> None:
    on_cpu = next(model.parameters()).device.type == "cpu"
    tolerance = _TOLERANCE if on_cpu else _TOLERANCE_OFF_CPU
    if (one - two).norm() <= tolerance * one.norm():
        return
    raise DpmixError(
        f"model {type(model).__name__} keeps something of the batches that it saw: the gradient of "
        "one batch depends on those before it, so examples influence each other unclipped; replace "
        "what keeps state (running statistics, counters, initialisation from data)"
    )
