"""Whether an engine that computes several units at once computes each as if it were alone.

Guarantee: an engine that passed gave each of many random units the same bits in many places of a
portion, among ever other neighbours: gradient, loss and logits, and the result of every single
operation on the way (`privacy/bit_watch.py`), under the loss of the run and under a linear one. The
routines of a processor add up in an order that depends on shapes, addresses and the number of
threads, and not on the numbers that they add. So units of noise and random weights tell how private
units and any later weights are computed. Nothing private is read.

The weights are drawn at random, since the model's own may hide what happens: of a unit whose ReLUs
are all off, nothing is seen. A model that hides bits even so, such as one that rounds its
activations or lets no noise through a gate, does not pass; nor does half precision, whose products
hide the sums inside. What the probe may miss is a difference in sums of a few terms, which rounds
to the same bits for nearly all inputs. The test is `tests/properties/test_unit_isolation.py`.
"""

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dpmix.clipping.model_check import RandomState, copy_of
from dpmix.clipping.types import CannotRunError, Loss
from dpmix.errors import DpmixError, is_out_of_memory

# What comes out of every operation of a computation, whatever order the rows stand in.
#
# Guarantee: two computations that saw the same units in different orders have the same `seen` only
# if, operation by operation, the same numbers came out, to the bit (but for a collision of
# hashes). And `hides` names the first operation behind which bits can't be seen: full numbers went
# in, and rounded ones, zeros or whole numbers came out. It looks below `vmap`, at what is really
# computed.


# Their results are constants, chance or what lay in the memory.
_MAKE_NUMBERS = ("empty", "zero", "ones", "full", "fill", "bernoulli", "rand", "normal", "uniform")


_AS_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


_LOW_BITS, _SAMPLE = 0xFF, 4096


_ODD, _SHIFT = -1640531527, 15


class BitWatch(TorchDispatchMode):
    """Notes, while it is entered, what every operation returns.

    Attributes:
        seen: of each operation, its name and a sum over the hashes of its numbers.
        hides: the first operation that hid bits; empty where none did.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, int]] = []
        self.hides = ""

    def __enter__(self) -> "BitWatch":
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`, and note its name and its results."""
        name = func.__name__
        given = _tensors((args, kwargs))
        memory = {_memory(tensor) for tensor in given}
        full, mask = any(map(_is_full, given)), any(one.dtype == torch.bool for one in given)
        out = func(*args, **(kwargs or {}))
        if any(part in name for part in _MAKE_NUMBERS):
            return out
        results = _tensors(out)
        # A view of what went in shows nothing new; a sum over all units rounds by their order.
        fresh = [
            one
            for one in results
            if one.ndim > 0 and (func._schema.is_mutable or _memory(one) not in memory)
        ]
        self.seen += [(name, _hash(one)) for one in fresh if one.dtype in _AS_INTEGERS]
        if not self.hides and _hidden(full, mask, fresh, not results):
            self.hides = name
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _hidden(full: bool, mask: bool, fresh: list[Tensor], no_tensor: bool) -> bool:
    """Whether no bit of what went in can be seen in what came out.

    Args:
        full: full numbers went in.
        mask: the result of a comparison went in.
        fresh: what came out.
        no_tensor: a number of Python's came out.
    """
    if full:
        shown = any(one.dtype == torch.bool or _is_full(one) for one in fresh)
        return no_tensor or (bool(fresh) and not shown)
    # A comparison that always goes one way says nothing of what was compared.
    return mask and any(
        one.is_floating_point() and bool((one == one.flatten()[0]).all()) for one in fresh
    )


def _is_full(tensor: Tensor) -> bool:
    """Whether some number uses its last bits."""
    integers = _AS_INTEGERS.get(tensor.dtype)
    if integers is None or tensor.numel() == 0:
        return False
    numbers = tensor.detach().reshape(-1).view(integers)
    some = numbers[:: max(1, len(numbers) // _SAMPLE)]
    return any(bool((part & _LOW_BITS).any()) for part in (some, numbers))


def _hash(tensor: Tensor) -> int:
    """A sum over its numbers, which does not depend on their order."""
    bits = tensor.detach().reshape(-1).view(torch.int32) * _ODD
    bits ^= bits >> _SHIFT
    bits *= _ODD
    return int(bits.sum(dtype=torch.int64))


Numbers = Callable[[nn.Module, Loss, Tensor, Tensor, bool], list[Tensor]]


"""From a model, a loss and R units, with the same dropout for all or not, to all that an engine
computes of each unit, [R, ...]."""


MOVES = "it was not seen to compute a unit alike in every place, to the last bit"


# Arrangements of the units that are tried. Small models showed a difference in three of four of
# them or in none; large ones, with more sums to show it, need fewer.
_ARRANGEMENTS, _OF_LARGE_MODELS, _LARGE = 6, 2, 1 << 21


_WHOLE = (torch.float32, torch.float64)


_seen: "WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], tuple[Loss, str]]]" = WeakKeyDictionary()


def why_not_apart(
    numbers: Numbers,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    units: int,
) -> str:
    """Try an engine on noise, once for each model, loss, shape and number of threads.

    Args:
        numbers: of the engine.
        model: on its device, in its modes; it is left as it was.
        loss: as in `clipped_gradient_sum`.
        views: their shape, dtype and device are looked at, and no value.
        labels: as `views`.
        units: R, computed at once.

    Returns:
        Why the engine must not be used, in a few words; empty where it may.

    Raises:
        CannotRunError: the engine can't run the model or the loss.
    """
    known = _seen.setdefault(model, {})
    key = (numbers, id(loss), units, _looks(views), _looks(labels), *_conditions(model, views))
    if key not in known:
        apart = _tried(numbers, model, loss, views, labels, units)
        known[key] = loss, "" if apart else MOVES  # with the loss, whose id is then taken
    return known[key][1]


def _looks(rows: Tensor) -> tuple[Any, ...]:
    return (tuple(rows.shape[1:]), rows.dtype, rows.device)


def _conditions(model: nn.Module, views: Tensor) -> tuple[Any, ...]:
    """What decides on the routines, next to shapes."""
    return (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled(views.device.type),
        torch.get_autocast_dtype(views.device.type),
        tuple((p.shape, p.stride(), p.dtype, p.requires_grad) for p in model.parameters()),
        tuple(module.training for module in model.modules()),
    )


def _tried(
    numbers: Numbers,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    units: int,
) -> bool:
    if units > 1 and (views.dtype not in _WHOLE or torch.is_autocast_enabled(views.device.type)):
        return False
    state = RandomState(model)
    try:
        subject = copy_of(model)
        generator = torch.Generator().manual_seed(0)
        noise = torch.empty(units, *views.shape[1:], dtype=views.dtype, device=views.device)
        soft = torch.rand(units, *labels.shape[1:], generator=generator).softmax(-1).to(labels)
        held = units * sum(p.numel() for p in subject.parameters())
        tries = _OF_LARGE_MODELS if held > _LARGE else _ARRANGEMENTS
        numbers(subject, loss, noise.zero_(), soft, False)  # does it run as in training?
        for place in range(tries if units > 1 else 0):  # one unit has one place
            _draw_weights(subject, generator)
            one = loss if place % 2 else _linear
            if not _same_elsewhere(numbers, subject, one, noise, soft, generator):
                return False
    except DpmixError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CannotRunError(f"{numbers.__name__} failed on noise: {reason}") from error
    finally:
        state.replay()
    return True


def _same_elsewhere(
    numbers: Numbers,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "R K *view"],
    labels: Float[Tensor, "R K L"],
    generator: torch.Generator,
) -> bool:
    """Whether fresh units have the same bits in their places and in others, in every operation."""
    views.copy_(torch.randn(views.shape, generator=generator))
    order = torch.randperm(len(views), generator=generator).to(views.device)
    state = RandomState(model)
    with BitWatch() as before:
        here = numbers(model, loss, views, labels, True)
    state.replay()  # dropout draws the same masks again
    moved = views[order], labels[order]
    with BitWatch() as after:
        there = numbers(model, loss, *moved, True)
    # What is not finite would hide the bits.
    same = all(
        torch.equal(a[order], b) and bool(b.isfinite().all())
        for a, b in zip(here, there, strict=True)
    )
    return same and sorted(before.seen) == sorted(after.seen) and not before.hides


def _linear(logits: Float[Tensor, "K L"], weights: Float[Tensor, "K L"]) -> Float[Tensor, " K"]:
    """A loss whose gradient is the same for all logits, so that none of their bits is absorbed."""
    return (logits * weights).sum(dim=-1)


@torch.no_grad()
def _draw_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Public random weights of a usual size."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            fan_in = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else 1
            drawn = torch.randn(parameter.shape, generator=generator) / math.sqrt(max(1, fan_in))
            parameter.copy_(drawn)
