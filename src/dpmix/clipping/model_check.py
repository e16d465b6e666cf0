"""Refuse a model whose gradient of one example cannot be bounded.

Guarantees that a model which passes has a trainable parameter, none left uninitialised, and no
layer of a known kind that mixes examples or keeps running statistics; and, where the shape of an
image is given, that it behaves so (see `_probe` below). This carries the sensitivity
claim of clipping: clip and sum bound one example's influence by C only if its gradient is a
function of that example, the parameters and draws. The test is ``tests/models/test_check.py``.
"""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from dpmix.errors import DpmixError
from dpmix.models.finetune import frozen_modules, layer_name, train_mode

# Remember the state of a model, tell what has changed, and put it back.
#
# Guarantees that after ``with preserved(model)`` every parameter, buffer and plain tensor
# attribute that the model had, its train/eval modes, and the state of torch's, numpy's and
# Python's random generators are what they were, whatever the body did.


@dataclass(frozen=True)
class Held:
    """One tensor of a model: the module that holds it, in which dictionary, and its value."""

    path: str
    module: nn.Module
    kind: str
    store: dict[str, Any]
    name: str
    tensor: Tensor | None
    value: Tensor | None

    def changed(self) -> bool:
        """Say whether the module now holds another value under this name."""
        now = self.store.get(self.name)
        if not isinstance(now, Tensor) or self.value is None:
            return now is not self.value
        return not _same(now, self.value)

    def restore(self) -> None:
        """Put back both the tensor object and its value."""
        # Untouched values stay untouched: a write would break a graph that the caller still needs.
        tensor, value = self.tensor, self.value
        if tensor is not None and value is not None and not _same(tensor, value):
            with torch.no_grad():
                tensor.copy_(value)
        self.store[self.name] = self.tensor


def held_tensors(model: nn.Module) -> list[Held]:
    """Return a copy of every parameter, buffer and plain tensor attribute of a model."""
    return [held for path, module in model.named_modules() for held in _held_by(path, module)]


def _held_by(path: str, module: nn.Module) -> Iterator[Held]:
    stores: dict[str, dict[str, Any]] = {
        "parameter": module._parameters,
        "buffer": module._buffers,
        "attribute": vars(module),
    }
    for kind, store in stores.items():
        for name, tensor in store.items():
            if isinstance(tensor, Tensor):
                yield Held(path, module, kind, store, name, tensor, tensor.detach().clone())
            elif tensor is None and kind != "attribute":
                yield Held(path, module, kind, store, name, None, None)


def _same(a: Tensor, b: Tensor) -> bool:
    """Compare kinds, shapes and bits: a NaN can carry a number, and a zero a sign."""
    a = a.detach()
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return torch.equal(*(one.reshape(-1).view(torch.uint8) for one in (a, b)))


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Undo, on leaving, whatever the body did to the model's state and to the generators."""
    held = held_tensors(model)
    modes = [(module, module.training) for module in model.modules()]
    rng = RandomState(model)
    try:
        yield
    finally:
        for tensor in held:
            tensor.restore()
        for module, training in modes:
            module.training = training
        rng.replay()


class RandomState:
    """The state of the random generators that a model's forward may draw from, to be replayed."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self._cpu = torch.get_rng_state()
        devices = {t.device for t in tensors if t.device.type == "cuda"}
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices}

    def replay(self) -> None:
        """Set every generator back to the state at construction."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)


# Find the layer at which one example's activations begin to depend on the others.
#
# Guarantees nothing about privacy: it only names a culprit for a model already found to mix.


def first_mixing_layer(
    model: nn.Module, one: Float[Tensor, "B ..."], two: Float[Tensor, "B ..."]
) -> str:
    """Name the first layer, innermost first, whose row 0 differs between two batches.

    Args:
        model: the model in the mode to look at.
        one: a batch.
        two: a batch of the same shape and with the same row 0.

    Returns:
        The layer's path and type; the model itself where no layer stands out.
    """
    rng = RandomState(model)
    first = _rows(model, one)
    rng.replay()
    for (path, module, a), (_, _, b) in zip(first, _rows(model, two), strict=False):
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-6):
            return layer_name(path, module)
    return layer_name("", model)


@torch.no_grad()
def _rows(model: nn.Module, batch: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Return row 0 of the output of every layer, in the order in which they finish."""
    rows: list[tuple[str, nn.Module, Tensor]] = []
    paths = {module: path for path, module in model.named_modules()}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim and len(output) == len(batch):
            rows.append((paths[module], module, output[0].detach().clone()))

    hooks = [module.register_forward_hook(record) for module in model.modules()]
    try:
        model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return rows


# Refuse a model whose gradient depends on what it saw before, whatever it keeps that in.
#
# Guarantees that a model which passes gives a batch of public noise the same logits and gradients,
# with the same draws, whether a few other batches came before it or not. Numbers, lists, caches
# and hooks of modules count as well as tensors. What shows only after more passes, or for larger
# batches, is not seen here; where a buffer holds it, ``PrivateTrainer`` refuses the step in which
# it moves. The test is ``tests/models/test_memory_probe.py``.


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
    draws = RandomState(model)
    batch_first, other_first = copy_of(model), copy_of(model)
    expected = _pass(batch_first, batch, draws)
    for subject in (batch_first, other_first):
        for _ in range(_PASSES_BETWEEN):
            _pass(subject, other, draws)
        _compare_memory_probe(model, expected, _pass(subject, batch, draws))


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


def _pass(model: nn.Module, x: Tensor, draws: RandomState) -> Tensor:
    """Logits and gradients of one forward and backward in train mode, in one vector."""
    train_mode(model)
    draws.replay()
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


def _compare_memory_probe(model: nn.Module, one: Tensor, two: Tensor) -> None:
    on_cpu = next(model.parameters()).device.type == "cpu"
    tolerance = _TOLERANCE if on_cpu else _TOLERANCE_OFF_CPU
    if (one - two).norm() <= tolerance * one.norm():
        return
    raise DpmixError(
        f"model {type(model).__name__} keeps something of the batches that it saw: the gradient of "
        "one batch depends on those before it, so examples influence each other unclipped; replace "
        "what keeps state (running statistics, counters, initialisation from data)"
    )


# Refuse by behaviour: run a model on public random input and watch what it does.
#
# Guarantees that a model which passes returns [B, L] finite logits, changes none of its tensors
# during a forward in train mode, gives an image the same logits whatever the other images of its
# batch are, and keeps nothing of the batches before (``dpmix.clipping.model_check``). The model's
# state and the random generators are left as they were found.
#
# A state that changes is refused even where no pixel enters it, as in ``spectral_norm``'s power
# iteration: the state that example i meets then depends on how many forwards came before it, so
# adding one example moves the gradients of others and the sensitivity is no longer C. The test is
# ``tests/models/test_check.py``.


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
    rng.replay()  # equal random draws: Dropout draws the same masks for a batch of the same shape
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


def check_private(model: nn.Module, image_shape: tuple[int, ...] | None = None) -> None:
    """Refuse what mixes examples or keeps running private statistics.

    Layers are judged in the train/eval mode they are in: a BatchNorm is allowed only if frozen
    (eval mode, no parameter that requires a gradient), which ``train_mode`` then respects.

    Args:
        model: the model about to be trained.
        image_shape: shape of one example, [C, H, W] for an image, [D] for features. None checks
            the kinds of the layers only: state or mixing inside a custom module then passes.

    Raises:
        DpmixError: naming the layer, what is wrong with it, and the remedy.
    """
    frozen = frozen_modules(model)
    for path, module in model.named_modules():
        if module not in frozen:
            _refuse_running_norm(path, module)
        _refuse_batch_statistics(path, module)
        _refuse_uninitialised(path, module)
        _refuse_parameter_hooks(path, module)
        _refuse_what_no_copy_runs(path, module)
    if not any(p.requires_grad for p in model.parameters()):
        raise DpmixError(
            f"model {type(model).__name__} has no trainable parameter: expected at least one with "
            "requires_grad; add a head, or unfreeze a layer with .requires_grad_(True)"
        )
    if image_shape is not None:
        probe(model, image_shape)


def _refuse_running_norm(path: str, module: nn.Module) -> None:
    """Refuse BatchNorm (Sync and Lazy too) and InstanceNorm with running statistics."""
    if isinstance(module, _BatchNorm):
        raise DpmixError(
            f"{layer_name(path, module)} mixes the examples of a batch and keeps their "
            "statistics; replace it by GroupNorm, fold it into the convolution before it, or "
            "freeze it: .eval() and .requires_grad_(False)"
        )
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        raise DpmixError(
            f"{layer_name(path, module)} keeps running statistics of private images; set "
            "track_running_stats=False, replace it by GroupNorm, or freeze it: .eval() and "
            ".requires_grad_(False)"
        )


def _refuse_batch_statistics(path: str, module: nn.Module) -> None:
    """Refuse a BatchNorm that has only the batch's statistics to use, in eval mode too."""
    if isinstance(module, _BatchNorm) and module.running_mean is None:
        raise DpmixError(
            f"{layer_name(path, module)} has no running statistics, so it mixes the examples of "
            "a batch even when frozen; replace it by GroupNorm"
        )


def _refuse_uninitialised(path: str, module: nn.Module) -> None:
    """Refuse lazy parameters: their shape would come from the first private batch."""
    for name, parameter in module.named_parameters(recurse=False):
        if is_lazy(parameter):
            raise DpmixError(
                f"{layer_name(path, module)} has the uninitialised parameter '{name}'; run one "
                "forward on public input of the right shape first"
            )


def _refuse_parameter_hooks(path: str, module: nn.Module) -> None:
    """Refuse hooks on gradients: they can keep state, and the probe's copies lose them."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter._backward_hooks:
            raise DpmixError(
                f"{layer_name(path, module)} has a hook on the gradient of '{name}', which can "
                "carry one example into the next; remove it"
            )


def _refuse_what_no_copy_runs(path: str, module: nn.Module) -> None:
    """Refuse a forward that was put on the object: its copy would go on running the original."""
    if "forward" in vars(module):
        raise DpmixError(
            f"{layer_name(path, module)} has its forward replaced on the object, so the check "
            "would not see what runs; wrap the model in a module of its own instead"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise DpmixError(
            f"{layer_name(path, module)} is compiled by torch.jit, so what it keeps can't be "
            "checked; give the module that it was compiled from"
        )
