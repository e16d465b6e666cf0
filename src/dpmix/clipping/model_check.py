"""Refuse a model in which the gradient of one example can't be bounded.

Clipping bounds one example's influence by C only if its gradient is a function of that example, the
parameters and the random draws. Guarantee: a model that passes has no layer of a known type that
mixes examples or keeps running statistics. Where the shape of an example is given, it was also run
on public noise, as a copy: it returned finite logits [B, L], changed none of its tensors in train
mode, gave an example the same logits whatever the rest of the batch was, and gave a batch the same
gradients whatever other batches came before. So numbers, lists, caches and hooks that remember
count as well as tensors, even where no pixel enters them (the power iteration of `spectral_norm`).

What shows only after more passes, or for larger batches, is not seen here; where a tensor holds it,
`PrivateTrainer` refuses the step in which it changes. The test is
`tests/clipping/test_model_check.py`.
"""

import copy
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedParameter

from dpmix.errors import DpmixError, one_line
from dpmix.models.finetune import frozen_modules, layer_name, train_mode

# Relative distance of two gradients; off the CPU, kernels need not repeat to the bit.
_TOLERANCE, _TOLERANCE_OFF_CPU = 1e-5, 1e-2


def check_private(model: nn.Module, image_shape: tuple[int, ...] | None = None) -> None:
    """Refuse what mixes examples or keeps private statistics; the model is left as it was.

    Layers are checked in the mode that they are in: a BatchNorm is allowed only if it is frozen
    (eval mode, no parameter that requires a gradient), and `train_mode` keeps it so.

    Args:
        model: the model to train.
        image_shape: shape of one example, [C, H, W] or [D]; None checks the types of layers only.

    Raises:
        DpmixError: names the layer, what is wrong with it, and the remedy.
    """
    frozen = frozen_modules(model)
    for path, module in model.named_modules():
        reason = _refusal(module, module in frozen)
        if reason:
            raise DpmixError(f"{layer_name(path, module)} {reason}")
    if not any(p.requires_grad for p in model.parameters()):
        raise DpmixError(
            f"model {type(model).__name__} has no trainable parameter: expected one or more; add a "
            "head, or unfreeze a layer with .requires_grad_(True)"
        )
    if image_shape is not None:
        draws = RandomState(model)
        try:
            _probe(model, image_shape, draws)
        finally:
            draws.replay()


def number_of_classes(model: nn.Module, view_shape: tuple[int, ...]) -> int:
    """L, from what a copy of the model returns for one public view of `view_shape`.

    Raises:
        DpmixError: the model can't be copied, or returns no logits [B, L].
    """
    draws = RandomState(model)
    like = next(p for p in model.parameters() if p.is_floating_point())
    try:
        with torch.no_grad():
            return _logits(copy_of(model).eval(), like.new_zeros(1, *view_shape)).shape[1]
    finally:
        draws.replay()


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, to be probed instead of the model.

    Raises:
        DpmixError: the model can't be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise DpmixError(
            f"model {type(model).__name__} can't be copied, so what it keeps between passes can't "
            f"be checked: {one_line(error)}; expected one that copy.deepcopy takes"
        ) from error


class RandomState:
    """The state of the random generators that a model's forward may use, to be replayed."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self._cpu = torch.get_rng_state()
        devices = {t.device for t in tensors if t.device.type == "cuda"}
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices}

    def replay(self) -> None:
        """Set every generator back to its state at construction."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)


@dataclass(frozen=True)
class HeldTensor:
    """A tensor of a model, as it was; None for a parameter or buffer that is None.

    Attributes:
        layer: the module that holds it, for messages.
        kind: `parameter`, `buffer` or `attribute`.
        store: the module's dictionary that holds it, under `name`.
        name: its key there.
        tensor: the tensor itself.
        value: a copy of its numbers.
    """

    layer: str
    kind: str
    store: dict[str, Any]
    name: str
    tensor: Tensor | None
    value: Tensor | None

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' of {self.layer}"

    def changed(self) -> bool:
        """Whether the module now holds another value under this name."""
        now = self.store.get(self.name)
        if not isinstance(now, Tensor) or self.value is None:
            return now is not self.value
        return not same_bits(now, self.value)

    def restore(self) -> None:
        """Put back both the tensor object and its value."""
        tensor, value = self.tensor, self.value
        # Writing an unchanged value would break a graph that the caller still needs.
        if tensor is not None and value is not None and not same_bits(tensor, value):
            with torch.no_grad():
                tensor.copy_(value)
        self.store[self.name] = self.tensor


def held_tensors(model: nn.Module) -> list[HeldTensor]:
    """Every parameter, buffer and plain tensor attribute of a model, with copies of the values."""
    found = []
    for path, module in model.named_modules():
        stores: dict[str, dict[str, Any]] = {
            "parameter": module._parameters,
            "buffer": module._buffers,
            "attribute": vars(module),
        }
        for kind, store in stores.items():
            for name, tensor in store.items():
                held = isinstance(tensor, Tensor)
                if held or (tensor is None and kind != "attribute"):
                    value = tensor.detach().clone() if held else None
                    layer = layer_name(path, module)
                    found.append(HeldTensor(layer, kind, store, name, tensor, value))
    return found


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Compare types, shapes and bits: a NaN can carry a number, and a zero a sign."""
    a = a.detach()
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return torch.equal(*(one.reshape(-1).view(torch.uint8) for one in (a, b)))


def _refusal(module: nn.Module, frozen: bool) -> str:
    """What is wrong with a layer by its type, and the remedy; empty if nothing is."""
    instead = "replace it by GroupNorm, or freeze it: .eval() and .requires_grad_(False)"
    if not frozen and isinstance(module, _BatchNorm):
        return f"mixes the examples of a batch and keeps their statistics; {instead}"
    if not frozen and isinstance(module, _InstanceNorm) and module.track_running_stats:
        return f"keeps statistics of private images; set track_running_stats=False, or {instead}"
    if isinstance(module, _BatchNorm) and module.running_mean is None:
        return "mixes the examples of a batch even when frozen; replace it by GroupNorm"
    if "forward" in vars(module):
        return "has its forward replaced on the object, which a copy keeps; wrap it in a module"
    if isinstance(module, torch.jit.ScriptModule):
        return "is compiled by torch.jit, so what it keeps can't be checked; give its source module"
    for name, parameter in module.named_parameters(recurse=False):
        # Its shape would come from the first private batch.
        if isinstance(parameter, UninitializedParameter):
            return f"has the uninitialised parameter '{name}'; run it on public input first"
        if parameter._backward_hooks:  # a copy loses it
            return f"has a hook on the gradient of '{name}', which can join examples; remove it"
    return ""


def _probe(model: nn.Module, image_shape: tuple[int, ...], draws: RandomState) -> None:
    """Run copies of the model on two public batches, in both orders, with the same draws."""
    batch, other = _public_batches(model, image_shape)
    subject = copy_of(model)
    _shake(subject)
    # State that the first batch sets for good shows only between two copies.
    other_first = copy_of(subject)

    before = held_tensors(subject)
    logits, first = _train_pass(subject, batch, draws)
    # A plain attribute may be a cache that the first pass fills; the second pass tells.
    _refuse_changes([held for held in before if held.kind != "attribute"])
    before = held_tensors(subject)
    other_logits, _ = _train_pass(subject, other, draws)
    _refuse_changes(before)

    _train_pass(other_first, other, draws)
    for memory in (other_first, subject):
        _refuse_memory(model, first, _train_pass(memory, batch, draws)[1])
    _refuse_mixing(model, logits, other_logits)

    subject.eval()
    with torch.no_grad():
        logits, other_logits = (_replayed(subject, x, draws) for x in (batch, other))
        _refuse_mixing(model, logits, other_logits)
        _refuse_mixing(model, logits, _logits(subject, batch[:1]))


def _public_batches(model: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Two batches [3, *shape] of noise that have only their first example in common."""
    like = next(p for p in model.parameters() if p.is_floating_point())
    noise = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    return noise[:3], torch.cat([noise[:1], 2 * noise[3:] + 1])


@torch.no_grad()
def _shake(model: nn.Module) -> None:
    """Add public noise to the parameters, as a step of training would.

    A fresh model can hide what it does: a head of zeros hides all layers before it, and a power
    iteration that has converged stands still.
    """
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter))


def _train_pass(model: nn.Module, x: Tensor, draws: RandomState) -> tuple[Tensor, Tensor]:
    """Logits [B, L] of one pass in train mode, and logits and gradients in one vector."""
    train_mode(model)
    logits = _replayed(model, x, draws)
    loss = (logits.logsumexp(dim=1) - logits[:, 0]).sum()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True) if loss.requires_grad else ()
    used = [gradient for gradient in gradients if gradient is not None]
    if not used:
        raise DpmixError(
            f"model {type(model).__name__} uses none of its trainable parameters, or runs another "
            "module's; expected gradients"
        )
    flat = [part.detach().flatten().double().cpu() for part in (logits, *used)]
    return logits.detach(), torch.cat(flat)


def _replayed(model: nn.Module, x: Tensor, draws: RandomState) -> Tensor:
    draws.replay()  # Dropout draws the same masks for a batch of the same shape
    return _logits(model, x)


def _logits(model: nn.Module, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B L"]:
    """Run the model and require finite logits [B, L]."""
    name = type(model).__name__
    try:
        output = model(x)
    except Exception as error:
        raise DpmixError(
            f"model {name} failed on a batch of shape {list(x.shape)}: {one_line(error)}; "
            "expected a model of such input, a batch of one example included"
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
    return output


def _refuse_changes(before: list[HeldTensor]) -> None:
    for held in before:
        if held.changed():
            raise DpmixError(
                f"{held.layer} changes its {held.kind} '{held.name}' during a forward in train "
                "mode, so examples influence each other unclipped and unnoised; replace it by a "
                "layer without running state (GroupNorm for a norm), or freeze it: .eval() and "
                ".requires_grad_(False)"
            )


def _refuse_memory(model: nn.Module, one: Tensor, two: Tensor) -> None:
    on_cpu = next(model.parameters()).device.type == "cpu"
    tolerance = _TOLERANCE if on_cpu else _TOLERANCE_OFF_CPU
    if not (one - two).norm() <= tolerance * one.norm():
        raise DpmixError(
            f"model {type(model).__name__} keeps something of earlier batches, on which its "
            "gradients depend, so examples influence each other unclipped; replace what keeps "
            "state (running statistics, counters, initialisation from data)"
        )


def _refuse_mixing(model: nn.Module, one: Tensor, two: Tensor) -> None:
    """Refuse if the logits of example 0 differ by more than sqrt(eps) of the largest of them.

    Off the CPU kernels may differ with the size of the batch and round to TF32: one per cent.
    """
    tolerance = float(torch.finfo(one.dtype).eps) ** 0.5
    if one.device.type != "cpu":
        tolerance = max(tolerance, _TOLERANCE_OFF_CPU)
    if not (one[0] - two[0]).abs().max() <= tolerance * one[0].abs().max():
        raise DpmixError(
            f"model {type(model).__name__} mixes the examples of a batch: one image's logits "
            "depend on the others; use layers that treat each image alone (GroupNorm, LayerNorm)"
        )
