"""What comes out of every operation of a computation, whatever order the rows stand in.

Guarantee: two computations that saw the same units in different orders have the same `seen` only
if, operation by operation, the same numbers came out, to the bit (but for a collision of hashes).
And `hides` names the first operation behind which bits can't be seen: full numbers went in, and
rounded ones, zeros or whole numbers came out. It looks below `vmap`, at what is really computed.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
