"""Which engine, chunks and layout are fastest for a model, tried on public random images.

Guarantee: nothing private is read; every way computes the same clipped sum. What is chosen depends
on the clock, and so the last bits of a run do: a seeded run, which is to repeat, goes by the rule
of `choose_engine` instead.
"""

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dpmix.models.activation_memory import activation_bytes
from dpmix.models.preserved import preserved
from dpmix.privacy.clipping import CannotRunError, Engine, Loss, engine_that_runs, trainable
from dpmix.privacy.compiled import compiled_way
from dpmix.privacy.linear import not_linear, trained_linear
from dpmix.privacy.trial import random_inputs, trial
from dpmix.privacy.vectorized import MAX_GRADIENT_NUMBERS, vectorized_units
from dpmix.privacy.way import Way

# A run of fewer forward passes is over before the ways to compute it were tried.
WORTH_TRYING = 20_000
# Many rounds in turns: the least of them is what a machine that others use too can do.
ROUNDS = 5
SECONDS_PER_TRY = 0.5
MOST_EXAMPLES = 64
# A way must be so much faster to be preferred to one that needs less.
CLEARLY = 0.95
# A first try that takes so many times as long is not repeated.
HOPELESS = 3.0
SHARE_OF_MEMORY = 0.5

logger = logging.getLogger(__name__)


def choose_way(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    view_shape: tuple[int, ...],
    views: int,
    view_chunk: int | None,
    *,
    passes: float,
    repeatable: bool,
    compiled: bool = False,
) -> Way:
    """As asked for; for `auto` the fastest, or where that is not worth a try, by rule.

    Args:
        engine: as in `clipped_gradient_sum`.
        model: as in `fastest_way`, like the next four.
        loss: as there.
        view_shape: as there.
        views: as there.
        view_chunk: as there.
        passes: forward passes in the whole run.
        repeatable: whether the run is to repeat to the bit.
        compiled: as asked for in `compiled_way`.

    Raises:
        DpmixError: engine `linear` for a model that it is not for, or as `compiled_way` raises.
    """
    if compiled:
        return compiled_way(engine, model, loss, view_shape, views, view_chunk)
    if engine == "linear" and trained_linear(model) is None:
        raise not_linear()
    if engine != "auto" or repeatable or passes < WORTH_TRYING:
        return by_rule(engine, model, loss, view_shape, views, view_chunk)
    return fastest_way(model, loss, view_shape, views, view_chunk)


def by_rule(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    view_shape: tuple[int, ...],
    views: int,
    view_chunk: int | None,
) -> Way:
    """The way that depends on the engine asked for, on K, the model and this machine alone."""
    with preserved(model):
        inputs = random_inputs(model, 1, view_shape, views)
        runs, reason = engine_that_runs(engine, model, loss, *inputs)
    if engine not in ("auto", runs):
        warnings.warn(f"engine {reason}; engine {runs} computes the same sum", stacklevel=4)
    return Way(runs, view_chunk, reason=reason)


def fastest_way(
    model: nn.Module,
    loss: Loss,
    view_shape: tuple[int, ...],
    views: int,
    view_chunk: int | None = None,
) -> Way:
    """Try what the model can run on random images of `view_shape`; takes some seconds.

    Args:
        model: on its device, in its modes; it is left as it was.
        loss: as in `clipped_gradient_sum`.
        view_shape: of one view.
        views: K.
        view_chunk: at most so many views in one pass; None: as many as fit in the memory.
    """
    if trained_linear(model) is not None:
        return by_rule("auto", model, loss, view_shape, views, view_chunk)
    trained = list(trainable(model).values())
    device, numbers = trained[0].device, sum(p.numel() for p in trained)
    with preserved(model):
        chunk = view_chunk or _fitting_chunk(model, view_shape, views, device)
        ways = [Way("examplewise", chunk)]
        if any(isinstance(module, nn.Conv2d) for module in model.modules()):
            ways.append(Way("examplewise", chunk, channels_last=True))
        if chunk is None and numbers <= MAX_GRADIENT_NUMBERS:
            ways.append(Way("vectorized"))
        seconds = _timed(ways, model, loss, view_shape, views, device)
        best = ways[0]
        for way in ways[1:]:
            faster = seconds.get(way, float("inf")) < CLEARLY * seconds[best]
            if faster and _may(way, model, loss, view_shape, views):
                best = way
    tried = ", ".join(f"{way} {_shown(taken)}" for way, taken in seconds.items())
    logger.info("engine %s: an example took %s", best, tried)
    return replace(best, reason=f"fastest of {tried} an example")


def _may(way: Way, model: nn.Module, loss: Loss, view_shape: tuple[int, ...], views: int) -> bool:
    """Whether the way's engine passes the probe that keeps units apart."""
    inputs = random_inputs(model, 1, view_shape, views)
    runs, reason = engine_that_runs(way.engine, model, loss, *inputs)
    if runs != way.engine:
        logger.info("engine %s", reason)
    return runs == way.engine


def _timed(
    ways: list[Way],
    model: nn.Module,
    loss: Loss,
    view_shape: tuple[int, ...],
    views: int,
    device: torch.device,
) -> dict[Way, float]:
    """Seconds an example, the least of a few tries in turns; what can't run is absent."""
    tries: dict[Way, Callable[[int], float]] = {}
    first: dict[Way, float] = {}
    # The engine fills up a portion with zeros, so that a smaller one would take as long.
    portion = vectorized_units(model, torch.empty(0, views, device=device))
    for way in ways:
        try:
            tries[way] = trial(way, model, loss, view_shape, views)
            least_units = portion if way.engine == "vectorized" else 2
            tries[way](1)  # warms up
            first[way] = tries[way](least_units)
        except CannotRunError as error:
            logger.debug("engine %s: %s", way, error)
    least = min(first.values())
    count = max(1, min(MOST_EXAMPLES, int(SECONDS_PER_TRY / least)))
    # Where one example takes long, its time is an average already.
    rounds = max(2, min(ROUNDS, round(ROUNDS * SECONDS_PER_TRY / (count * least))))
    hopeful = [way for way in first if first[way] < HOPELESS * least or way.engine == "vectorized"]
    best = dict(first)
    for turn in range(rounds):
        for way in hopeful:
            units = math.ceil(count / portion) * portion if way.engine == "vectorized" else count
            taken = tries[way](units)
            best[way] = min(taken, best[way]) if turn else taken
    return best


def _fitting_chunk(
    model: nn.Module, view_shape: tuple[int, ...], views: int, device: torch.device
) -> int | None:
    """The views whose activations fit in half of the free memory; None where all K do."""
    activations = activation_bytes(model, torch.rand(1, *view_shape, device=device))
    fitting = int(SHARE_OF_MEMORY * free_memory(device) / max(1, activations))
    return None if fitting >= views else max(1, fitting)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on `device`; on a CPU those of the machine, where it says so."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 1 << 62
    (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return int(available) * 1024


def _shown(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
