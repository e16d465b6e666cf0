"""Whether an engine that computes several units at once computes each as if it were alone.

Guarantee: an engine that passes gave each of many random units the same bits in many places of a
portion and among changing neighbours: gradient, loss and logits, and the result of every single
operation on the way (`BitWatch`), under the loss of the run and under a linear one. A processor's
routines add in an order that depends on shapes, addresses and the number of threads, and not on the
numbers that they add. So units of noise and random weights show how private units and any later
weights are computed. Nothing private is read.

The weights are drawn at random, since the model's own may hide what happens: of a unit whose ReLUs
are all off, nothing is seen. A model that hides bits even so, such as one that rounds its
activations or lets no noise through a gate, does not pass; nor does half precision, whose products
hide the sums inside. The probe may miss a difference in sums of a few terms, which rounds to the
same bits for nearly all inputs. The test is `tests/properties/test_unit_isolation.py`.
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
from dpmix.errors import DpmixError, is_out_of_memory, one_line

# From a model, a loss, R units with their labels, and whether all units get the same dropout, to
# every number that an engine computes for each unit, [R, ...].
Numbers = Callable[[nn.Module, Loss, Tensor, Tensor, bool], list[Tensor]]

MOVES = "it was not seen to compute a unit alike in every place, to the last bit"

# Arrangements of the units that are tried. Small models showed a difference in three of four of
# them or in none; large models, with more sums to show it, need fewer.
_ARRANGEMENTS, _OF_LARGE_MODELS, _LARGE = 6, 2, 1 << 21

# The results of operations with these names are constants, random, or uninitialised memory.
_MAKE_NUMBERS = ("empty", "zero", "ones", "full", "fill", "bernoulli", "rand", "normal", "uniform")
_AS_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
_LOW_BITS, _SAMPLE = 0xFF, 4096
# One number in 256 has no low bits by chance, so fewer than this show nothing by themselves.
_FEW = 4
_ODD, _SHIFT = -1640531527, 15

_known: "WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], tuple[Loss, str]]]" = (
    WeakKeyDictionary()
)


def why_not_apart(
    numbers: Numbers,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    units: int,
) -> str:
    """Why an engine must not compute R = `units` units at once; empty if it may.

    It is tried on noise, once for each model, loss, shape and number of threads. Of views and
    labels only shapes, dtypes and devices are read. The model is left as it was.

    Raises:
        CannotRunError: the engine can't run the model or the loss.
    """
    known = _known.setdefault(model, {})
    # What selects the routines.
    key = (
        numbers, id(loss), units, torch.get_num_threads(), torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled(views.device.type), torch.get_autocast_dtype(views.device.type),
        *((tuple(rows.shape[1:]), rows.dtype, rows.device) for rows in (views, labels)),
        tuple((p.shape, p.stride(), p.dtype, p.requires_grad) for p in model.parameters()),
        tuple(module.training for module in model.modules()),
    )  # fmt: skip
    if key not in known:
        apart = _is_apart(numbers, model, loss, views, labels, units)
        known[key] = loss, "" if apart else MOVES  # the loss is kept so that its id stays taken
    return known[key][1]


def _is_apart(
    numbers: Numbers,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    units: int,
) -> bool:
    whole = views.dtype in _AS_INTEGERS and not torch.is_autocast_enabled(views.device.type)
    if units > 1 and not whole:
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
            draw_weights(subject, generator)
            one = loss if place % 2 else _linear_loss
            if not _same_elsewhere(numbers, subject, one, noise, soft, generator):
                return False
    except DpmixError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        engine = numbers.__name__.removesuffix("_numbers")
        raise CannotRunError(f"{engine} cannot run this model: {one_line(error)}") from error
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
    # A number that is not finite would hide the bits.
    same = all(
        torch.equal(a[order], b) and bool(b.isfinite().all())
        for a, b in zip(here, there, strict=True)
    )
    return same and sorted(before.seen) == sorted(after.seen) and not before.hides


def _linear_loss(
    logits: Float[Tensor, "K L"], weights: Float[Tensor, "K L"]
) -> Float[Tensor, " K"]:
    """A loss whose gradient is the same for all logits, so that none of their bits is absorbed."""
    return (logits * weights).sum(dim=-1)


@torch.no_grad()
def draw_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Public random weights of a usual size."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            fan_in = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else 1
            drawn = torch.randn(parameter.shape, generator=generator) / math.sqrt(max(1, fan_in))
            parameter.copy_(drawn)


class BitWatch(TorchDispatchMode):
    """Records, while it is entered, what every operation returns, also below `vmap`.

    Guarantee: two computations that saw the same units in different orders have the same `seen`
    only if, operation by operation, the same numbers came out, to the bit (up to a collision of
    hashes).

    Attributes:
        seen: the name of each operation, and a sum over the hashes of its numbers.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, int]] = []
        self._hides = False
        self._few: dict[str, bool] = {}

    @property
    def hides(self) -> bool:
        """Whether bits can't be seen behind an operation.

        It took numbers with all their bits and returned only rounded numbers, zeros or integers.
        Where it returns fewer than four numbers, all its calls are judged together.
        """
        return self._hides or any(self._few.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = _tensors((args, kwargs))
        memory = {_address(tensor) for tensor in given}
        full, mask = any(map(_is_full, given)), any(one.dtype == torch.bool for one in given)
        out = func(*args, **(kwargs or {}))
        name = func.__name__
        if any(part in name for part in _MAKE_NUMBERS):
            return out
        results = _tensors(out)
        # A view of an input shows nothing new; a sum over all units rounds by their order.
        fresh = [
            one
            for one in results
            if one.ndim > 0 and (func._schema.is_mutable or _address(one) not in memory)
        ]
        self.seen += [(name, _hash(one)) for one in fresh if one.dtype in _AS_INTEGERS]
        # A wider type holds all bits, before zeros.
        widened = name.startswith("_to_copy") and all(o.dtype == torch.float64 for o in fresh)
        hides = not widened and _hides_bits(full, mask, fresh, number=not results)
        if full and fresh and all(one.numel() < _FEW for one in fresh):
            call = f"{name} {[tuple(one.shape) for one in (*given, *fresh)]}"
            self._few[call] = self._few.get(call, True) and hides
        else:
            self._hides = self._hides or hides
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _hides_bits(full: bool, mask: bool, fresh: list[Tensor], number: bool) -> bool:
    """Whether no bit of the inputs can be seen in the outputs, `fresh` or a Python `number`.

    `full`: some input was full; `mask`: some input was the result of a comparison.
    """
    if full:
        shown = any(one.dtype == torch.bool or _is_full(one) for one in fresh)
        return number or (bool(fresh) and not shown)
    # A comparison with a single outcome shows nothing of what was compared.
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
    """A sum over the tensor's numbers that does not depend on their order."""
    bits = tensor.detach().reshape(-1).view(torch.int32) * _ODD
    bits ^= bits >> _SHIFT
    bits *= _ODD
    return int(bits.sum(dtype=torch.int64))
