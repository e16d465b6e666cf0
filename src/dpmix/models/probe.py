"""Refuse by behaviour: run a model on public random input and watch what it does.

Guarantees that a model which passes returns [B, L] finite logits, changes none of its tensors
during a forward in train mode, gives an image the same logits whatever the other images of its
batch are, and keeps nothing of the batches before (``dpmix.models.memory_probe``). The model's
state and the random generators are left as they were found.

A state that changes is refused even where no pixel enters it, as in ``spectral_norm``'s power
iteration: the state that example i meets then depends on how many forwards came before it, so
adding one example moves the gradients of others and the sensitivity is no longer C. The test is
``tests/models/test_check.py``.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.errors import DpmixError
from dpmix.models.frozen import train_mode
from dpmix.models.layer_name import layer_name
from dpmix.models.memory_probe import copy_of, refuse_memory
from dpmix.models.mixing_layer import first_mixing_layer
from dpmix.models.preserved import Held, RandomState, held_tensors, preserved

_BATCH = 3


def probe(model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Refuse a model that keeps state, mixes the examples of a batch or returns no logits.

    Args:
        model: maps [B, *image_shape] to [B, L].
        image_shape: shape of one example, [C, H, W] for an image, [D] for features.

    Raises:
        DpmixError: the model fails on such input, its output is not [B, L], it can't be copied, or
            see above.
    """
    batch, other = _public_batches(model, image_shape)
    with preserved(model):
        # What is no tensor can't be put back, so it is a copy that runs.
        model = copy_of(model)
        _shake(model)
        untouched = copy_of(model)
        train_mode(model)
        _refuse_state(model, batch, other)  # with gradients on, as in training
        refuse_memory(untouched, batch, other)
        with torch.no_grad():
            _refuse_mixing(model, batch, other)
            model.eval()
            _refuse_mixing(model, batch, other)
            _compare(model, logits_of(model, batch), logits_of(model, batch[:1]), batch, other)


def _public_batches(model: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return two batches [3, *shape] of noise that share their first example only."""
    like = next(p for p in model.parameters() if p.is_floating_point())
    generator = torch.Generator().manual_seed(0)  # its own, so that the caller's draws stay put
    noise = torch.randn(2 * _BATCH - 1, *shape, generator=generator).to(like)
    return noise[:_BATCH], torch.cat([noise[:1], 2 * noise[_BATCH:] + 1])


@torch.no_grad()
def _shake(model: nn.Module) -> None:
    """Add public noise to the parameters, as a step of training would.

    At its start a model can hide what it does: a head of zeros hides all before it, and a power
    iteration that has converged stands still.
    """
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter))


def logits_of(model: nn.Module, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B L"]:
    """Run the model and insist on finite [B, L] logits."""
    name = type(model).__name__
    try:
        output = model(x)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DpmixError(
            f"model {name} failed on a batch of shape {list(x.shape)}: {reason}; "
            "expected a model of such input, one example alone included"
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        one = isinstance(output, Tensor) and output.ndim < 2
        remedy = "; of one output z [B, 1], torch.cat([torch.zeros_like(z), z], 1)" if one else ""
        raise DpmixError(
            f"model {name} returned {got}: expected logits [B, L], here [{len(x)}, L]{remedy}"
        )
    if not output.isfinite().all():
        raise DpmixError(f"model {name} returned non-finite logits for standard normal input")
    return output.detach()


def _refuse_state(model: nn.Module, batch: Tensor, other: Tensor) -> None:
    """Refuse a tensor of the model that a forward in train mode changes."""
    before = held_tensors(model)
    logits_of(model, batch)
    for held in before:
        # A plain attribute may be a cache that the first forward fills; the second one tells.
        if held.kind != "attribute" and held.changed():
            raise _state_error(held)
    before = held_tensors(model)
    logits_of(model, other)
    for held in before:
        if held.changed():
            raise _state_error(held)


def _state_error(held: Held) -> DpmixError:
    return DpmixError(
        f"{layer_name(held.path, held.module)} changes its {held.kind} '{held.name}' during a "
        "forward in train mode, so examples influence each other unclipped and unnoised; replace "
        "it by a layer without running state (GroupNorm for a norm), or freeze it: .eval() and "
        ".requires_grad_(False)"
    )


def _refuse_mixing(model: nn.Module, batch: Tensor, other: Tensor) -> None:
    """Refuse a model whose logits of example 0 move with the other examples."""
    rng = RandomState(model)
    one = logits_of(model, batch)
    rng.replay()  # equal coins: Dropout draws the same masks for a batch of the same shape
    two = logits_of(model, other)
    rng.replay()
    _compare(model, one, two, batch, other)


def _compare(model: nn.Module, one: Tensor, two: Tensor, batch: Tensor, other: Tensor) -> None:
    """Refuse if the first rows differ by more than rounding: sqrt(eps) of the largest logit.

    Off the CPU, where kernels may differ with the batch size and round to TF32: one per cent.
    """
    tolerance = float(torch.finfo(one.dtype).eps) ** 0.5
    if one.device.type != "cpu":
        tolerance = max(tolerance, 1e-2)
    if (one[0] - two[0]).abs().max() <= tolerance * one[0].abs().max():
        return
    raise DpmixError(
        f"{first_mixing_layer(model, batch, other)} mixes the examples of a batch: the logits of "
        "one image depend on the other images; replace it by a layer that treats each image "
        "alone (GroupNorm, LayerNorm)"
    )
