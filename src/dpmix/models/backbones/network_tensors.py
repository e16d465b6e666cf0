"""The tensors of a network in a checkpoint as trainings write it: nested, prefixed, or for grey.

Guarantees. No file can run code. The part of a checkpoint that is the network is found by the
network's own tensor names, so no list of wrappers has to know it. Of two parts that fit equally
well, an average of the weights comes first: self-distillation evaluates its teacher, which is one
(DINO: Caron et al. 2021, arXiv 2104.14294). What is left out is counted in a warning. Whether
every tensor of the network is there is checked where they are loaded (`load_filled`).
"""

import re
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dpmix.models.backbones.weights_file import few, unfit, why_unread

_AVERAGE = re.compile(r"teacher|target_encoder|(^|[._])ema([._]|$)")
# Trained next to the weights that a method publishes: MoCo's keys, DINO's student.
_HELPER = re.compile(r"student|momentum|encoder_k\.")
_LEAST_SHARE = 0.5  # of the network's names; with fewer, the file has another layout

State = dict[str, Tensor]


def read_tensors(path: Path) -> Any:
    """Return what a weights file holds, in safetensors or torch's own format."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Trainings keep their arguments next to the weights, in a class that only holds values.
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    # Torch's unpickler raises nearly anything for a file that is no checkpoint.
    except Exception as error:
        raise unfit(path, why_unread(error)) from error


def read_state_dict(path: Path) -> State:
    """Return the tensors of a weights file that holds nothing else."""
    state = read_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise unfit(path, "no mapping of names to tensors")
    return state


def network_tensors(path: Path, network: str, own: State) -> State | None:
    """Return the tensors of a checkpoint that are the network's, under the network's own names.

    A first convolution for grey images [O, 1, h, w] becomes one for RGB [O, 3, h, w], see `_rgb`.

    Args:
        path: the file; its tensors may lie at any depth, with any prefix.
        network: name of the network, for messages.
        own: the network's state dict without its classifier, for names and shapes.

    Returns:
        The tensors, or None if the file names fewer than half of them: only the network's library
        may then know its layout.

    Raises:
        DpmixError: the file can't be read, or two parts of it fit equally well.
    """
    fits = [(count, f"{place}{prefix}", prefix, part)
            for place, part in _parts(read_tensors(path))
            for prefix, count in _prefixes(part, own).items()]  # fmt: skip
    most = max((count for count, *_ in fits), default=0)
    if most < _LEAST_SHARE * len(own):
        return None
    best = sorted((fit for fit in fits if fit[0] == most), key=lambda fit: _rank(fit[1]))
    _, name, prefix, part = best[0]
    others = [f"'{other}'" for _, other, *_ in best[1:]]
    if others and _rank(best[1][1]) == _rank(name):
        raise unfit(path, f"{network} is in it more than once: '{name}', {', '.join(others)}")
    taken = {key.removeprefix(prefix): part[key] for key in part if key.startswith(prefix)}
    _say(path, name, others, [key for key in part if not key.startswith(prefix)])
    return {key: _rgb(value, own.get(key)) for key, value in taken.items()}


def _parts(held: Any, place: str = "", around: tuple[int, ...] = ()) -> Iterator[tuple[str, State]]:
    """Every mapping of names to tensors, at any depth, and its place; none inside itself."""
    if not isinstance(held, dict) or id(held) in around:
        return
    named = {key: value for key, value in held.items() if isinstance(key, str)}
    if tensors := {key: value for key, value in named.items() if isinstance(value, Tensor)}:
        yield place, tensors
    for key, value in named.items():
        yield from _parts(value, f"{place}{key}.", (*around, id(held)))


def _prefixes(part: State, own: State) -> Counter[str]:
    """How many of the network's tensors have their name in `part` after each prefix."""
    found: Counter[str] = Counter()
    for key in part:
        for prefix in accumulate(re.findall(r"[^.]*\.", key), initial=""):
            found[prefix] += key[len(prefix) :] in own
    return found


def _rank(name: str) -> int:
    """Which of several whole networks comes first."""
    return 0 if _AVERAGE.search(name) else 2 if _HELPER.search(name) else 1


def _say(path: Path, name: str, others: list[str], left_out: list[str]) -> None:
    said = []
    if others:
        why = ", the average of the weights that its training evaluates" if not _rank(name) else ""
        said.append(f"the weights of '{name}' are taken{why}, not those of {', '.join(others)}")
    if left_out:
        said.append(f"{few(left_out)} outside '{name}' left out")
    if said:
        warnings.warn(f"weights '{path}': {'; '.join(said)}", stacklevel=4)


def _rgb(given: Tensor, own: Tensor | None) -> Tensor:
    """Spread a first convolution for one channel over three, a third of its weight for each.

    A grey image in three channels, normalised by one mean and deviation, then gives the output
    that the one channel gave: the three thirds add up.
    """
    first = own is not None and own.ndim == 4 and own.shape[1] == 3 and given.shape[1:2] == (1,)
    return given.expand(-1, 3, -1, -1) / 3 if first and given.ndim == 4 else given
