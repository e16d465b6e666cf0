"""Whether a weights file filled a network: all of it, or the file is refused.

Guarantee: a backbone from a file holds no tensor that the file did not give, and the file no tensor
that the backbone did not take, but for the classifier's. Libraries leave what is missing at random,
with a log line at most: features would be noise, and never the same twice.

Tests: tests/models/backbones/test_filled.py.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dpmix.errors import DpmixError

_NAMED = 3


@contextmanager
def filled(
    path: Path, network: str, *, published: bool, head: tuple[str, ...] = ()
) -> Iterator[None]:
    """Refuse, in the body, any `load_state_dict` that leaves a tensor out.

    Libraries rename and resize what they read first, so only their own call knows what counts.

    Args:
        path: the weights file, for messages.
        network: what it is loaded into, for messages.
        published: these are the library's own weights for the network. Some hold more than it
            takes, such as another head; that is warned of.
        head: how the names of a classifier's tensors begin, which the network is without.

    Raises:
        DpmixError: a tensor of the network that the file lacks, or, unless published, one of the
            file that the network lacks; or nothing was loaded at all.
    """
    plain, calls = nn.Module.load_state_dict, 0

    def load(self: nn.Module, state: Any, strict: bool = True, assign: bool = False) -> Any:
        nonlocal calls
        calls += 1
        gaps = plain(self, state, strict=False, assign=assign)
        no_place = [key for key in gaps.unexpected_keys if not key.startswith(head)]
        check_filled(path, network, gaps.missing_keys, no_place, published=published)
        return gaps

    nn.Module.load_state_dict = load  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.load_state_dict = plain  # type: ignore[method-assign]
    if not calls:
        raise _other_network(path, network, "nothing of the file was loaded")


def check_filled(
    path: Path,
    network: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    *,
    published: bool = False,
) -> None:
    """Say which tensors of the network and of the file found no match; as `filled` raises."""
    if published and unexpected and not missing:
        warnings.warn(f"weights of {network}: left out {_few(unexpected)} of them", stacklevel=2)
    elif missing or unexpected:
        reasons = [f"the file lacks {_few(missing)}"] if missing else []
        reasons += [f"the network lacks {_few(unexpected)}"] if unexpected else []
        raise _other_network(path, network, ", and ".join(reasons))


def refuse_resized(
    path: Path, network: str, given: dict[str, Tensor], model: nn.Module, *, resized: bool
) -> None:
    """Refuse a file whose tensors have other shapes, which a library resamples where it can.

    Position embeddings follow the image size, so theirs may change: that is warned of unless it
    was asked for (`resized`).

    Raises:
        DpmixError: any other tensor of the network has another size in the file.
    """
    own = model.state_dict()
    other = [
        f"{name} {list(given[name].shape)} for {list(own[name].shape)}"
        for name in own.keys() & given.keys()
        if given[name].numel() != own[name].numel()
    ]
    positions = [line for line in other if "pos" in line.partition(" ")[0]]
    if len(positions) < len(other):
        raise _other_network(path, network, f"other shapes: {_few(sorted(other))}")
    if positions and not resized:
        warnings.warn(
            f"weights '{path}' are of another image size, and were resampled: "
            f"{_few(sorted(positions))}; --backbone-size chooses the size",
            stacklevel=2,
        )


def _few(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({', '.join(names[:_NAMED])}{more})"


def _other_network(path: Path, network: str, reason: str) -> DpmixError:
    return DpmixError(
        f"weights '{path}' do not fit {network}: {reason}; expected the names and shapes of its "
        "own state_dict, as torch.save(model.state_dict(), FILE) writes them: name the network "
        "that the file is of, or rename its tensors"
    )
