"""Which engine, chunks and layout are fastest for a model, tried on public random images.

Guarantee: nothing private is read; every way computes the same clipped sum. What is chosen depends
on the clock, and so the last bits of a run do: a seeded run, which is to repeat, goes by the rule
of `choose_engine` instead.
"""

import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.clipping.linear import not_linear, trained_linear
from dpmix.clipping.model_check import copy_of, preserved
from dpmix.clipping.types import ENGINES, CannotRunError, ClippedSum, Engine, Loss, Way, trainable
from dpmix.clipping.vectorized import MAX_GRADIENT_NUMBERS, vectorized_units
from dpmix.errors import DpmixError, nearest
from dpmix.models.head import LinearHead

# The sum of clipped per-example gradients, and the choice of the engine that computes it.
#
# Formal guarantee: with fixed draws, adding or removing one group of views changes the returned
# sum by at most C = `max_grad_norm` in Euclidean norm over all parameters together. Each group's
# gradient is that of the MEAN loss over its K views, scaled by min(1, C / norm); a gradient that
# is not finite contributes zero. `tests/properties/test_sensitivity.py` checks it.


# Measured on two cores (benchmarks/step_speed.py): from this K on, one example at a time is faster
# for convolutions. Larger models than this gain nothing from vmap and need a gradient per example.
EXAMPLEWISE_VIEWS = 16


VECTORIZED_PARAMETERS = 1 << 20


logger_clipping = logging.getLogger(__name__)


def clipped_gradient_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    *,
    engine: Engine = "auto",
    view_chunk: int | None = None,
    example_chunk: int | None = None,
) -> ClippedSum:
    """Return the SUM of clipped gradients over G groups of K views each, never an average.

    DP-SGD (Abadi et al. 2016) with augmentation multiplicity (De et al. 2022, section 3.2).

    Args:
        model: any module that keeps no statistics of what it sees (`models.check_private`).
        loss: one loss per view; a scalar would hide whether it is a sum or a mean. It must keep no
            state from one call to the next.
        views: groups of views; one group, one clipped gradient.
        labels: soft labels.
        max_grad_norm: C; infinite leaves gradients unclipped.
        engine: `examplewise`, `vectorized`, `linear` or `auto` (by the rule of `choose_engine`).
            `examplewise` takes the place of one that would let units move each other.
        view_chunk: at most so many views per forward pass (`examplewise`); exact, less memory.
        example_chunk: groups that are computed at a time (`vectorized` and `linear`).

    Raises:
        DpmixError: unknown engine, shapes that do not fit, a loss that is not one per view, a model
            that the engine asked for by name cannot run.
    """
    _check(model, views, labels, max_grad_norm, engine)
    used, reason = engine_that_runs(engine, model, loss, views, labels, example_chunk)
    logger_clipping.debug("engine %s: %s", used, reason)
    if engine not in ("auto", used):
        slower = f"engine {used} computes the same sum, more slowly"
        warnings.warn(f"engine {reason}; {slower}", stacklevel=2)
    return sum_by(used, model, loss, views, labels, max_grad_norm, view_chunk, example_chunk)


def sum_by(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    view_chunk: int | None = None,
    example_chunk: int | None = None,
) -> ClippedSum:
    """As `clipped_gradient_sum`, by an engine that `engine_that_runs` named, or on public views."""
    # The engines import this module's types, hence the late import.
    from dpmix.clipping.examplewise import examplewise_sum
    from dpmix.clipping.linear import linear_sum, linear_units
    from dpmix.clipping.vectorized import vectorized_sum, vectorized_units

    if engine == "linear":
        units = example_chunk or linear_units(model, views)
        return linear_sum(model, loss, views, labels, max_grad_norm, units)
    if engine == "vectorized":
        units = example_chunk or vectorized_units(model, views)
        return vectorized_sum(model, loss, views, labels, max_grad_norm, units)
    return examplewise_sum(model, loss, views, labels, max_grad_norm, view_chunk)


def engine_that_runs(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    example_chunk: int | None = None,
) -> tuple[Engine, str]:
    """The engine that computes the sum, and why: `examplewise` where the one asked for must not.

    Several units at once are computed only by an engine that a probe has seen to compute each as if
    it were alone (`privacy/place_probe.py`). Arguments are as in `clipped_gradient_sum`; of views
    and labels no value is read.

    Raises:
        DpmixError: the engine was asked for by name and cannot run the model.
    """
    from dpmix.clipping.linear import linear_numbers, linear_units
    from dpmix.clipping.place_probe import why_not_apart
    from dpmix.clipping.vectorized import vectorized_numbers, vectorized_units

    chosen, reason = (
        choose_engine(model, views.shape[1]) if engine == "auto" else (engine, "as asked for")
    )
    if chosen == "examplewise":
        return chosen, reason
    numbers, at_once = (
        (linear_numbers, linear_units)
        if chosen == "linear"
        else (vectorized_numbers, vectorized_units)
    )
    try:
        units = example_chunk or at_once(model, views)
        refusal = why_not_apart(numbers, model, loss, views, labels, units)
    except CannotRunError as error:
        if engine != "auto":
            raise CannotRunError(f"engine {error}; use engine 'examplewise'") from error
        return "examplewise", str(error)
    if not refusal:
        return chosen, reason
    return "examplewise", f"{chosen} is not used: {refusal}"


def choose_engine(model: nn.Module, views: int) -> tuple[Engine, str]:
    """Pick an engine by K and the model; return it with the reason.

    One vmap over many examples saves the cost of starting each pass, which rules in small models;
    but it turns a convolution's weight gradient into a grouped convolution, which is slow once the
    K views of one example fill the hardware by themselves.
    """
    size = sum(p.numel() for p in trainable(model).values())
    if size > VECTORIZED_PARAMETERS:
        return "examplewise", f"{size:,} parameters: one gradient at a time saves memory"
    whole = sum(p.numel() for p in model.parameters())
    if whole > VECTORIZED_PARAMETERS:
        return "examplewise", f"{whole:,} parameters, frozen ones included, are slow under vmap"
    if isinstance(model, LinearHead):
        return "linear", f"{size:,} parameters in one linear layer on given features"
    owners = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    if all(isinstance(module, nn.Linear) for module in owners):
        return "vectorized", f"{size:,} parameters, all in linear layers"
    if views < EXAMPLEWISE_VIEWS:
        return "vectorized", f"K = {views} views leave the hardware idle one example at a time"
    return "examplewise", f"K = {views} views of one example fill the hardware"


def _check(
    model: nn.Module, views: Tensor, labels: Tensor, max_grad_norm: float, engine: str
) -> None:
    if engine not in ENGINES:
        raise DpmixError(f"unknown engine '{engine}': {nearest(engine, ENGINES)}")
    if not max_grad_norm > 0:
        raise DpmixError(f"max_grad_norm is {max_grad_norm:g}; expected above 0")
    if views.shape[:2] != labels.shape[:2] or labels.ndim != 3 or views.shape[1] == 0:
        raise DpmixError(
            f"views are {list(views.shape)} and labels {list(labels.shape)}; expected "
            "[G, K, ...] and [G, K, L] with the same G and the same K of 1 or more"
        )
    if not trainable(model):
        raise DpmixError("the model has no trainable parameter; set requires_grad on some")


# What a forward pass keeps for the backward, in bytes.


def activation_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that a pass over `images` keeps, the model's own parameters not counted."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(images)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(size for where, size in kept.items() if where not in own)


# The time of a clipped sum, on random images: nothing private is read.


def trial(
    way: Way,
    model: nn.Module,
    loss: Loss,
    view_shape: tuple[int, ...],
    views: int,
) -> Callable[[int], float]:
    """Return a function from a number of examples to the seconds that one of them takes.

    Args:
        way: to be tried.
        model: on its device; it is left as it was.
        loss: as in `clipped_gradient_sum`.
        view_shape: of one view.
        views: K.
    """
    subject = copy_of(model) if way.channels_last else model
    called = way.prepare(subject)

    def run(examples: int) -> float:
        images, labels = random_inputs(model, examples, view_shape, views)
        start = time.perf_counter()
        part = sum_by(way.engine, called, loss, images, labels, 1.0, way.view_chunk)
        # Reading a value back waits for the device to finish.
        part.norms.sum().item()
        return (time.perf_counter() - start) / examples

    return run


def random_inputs(
    model: nn.Module, examples: int, view_shape: tuple[int, ...], views: int
) -> tuple[Float[Tensor, "G K *view"], Float[Tensor, "G K L"]]:
    """Views of noise as the model takes them, and labels that say nothing."""
    like = next(p for p in model.parameters() if p.is_floating_point())
    images = torch.rand(examples, views, *view_shape, device=like.device).to(like.dtype)
    with torch.no_grad():
        classes: int = model(images[0, :1]).shape[-1]
    return images, torch.full((examples, views, classes), 1 / classes, device=like.device)


# The way that `--compile` asks for: one example at a time, its passes fused by `torch.compile`.
#
# What is compiled is the model's forward and backward over the views of one example, so that the
# clipped sum is the same function of the examples, to rounding. Compiling takes up to a minute.


def compiled_way(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    view_shape: tuple[int, ...],
    views: int,
    view_chunk: int | None,
) -> Way:
    """Compile on random images, and say after how many examples that will have paid.

    Args:
        engine: `auto` or `examplewise`.
        model: on its device, in its modes; it is left as it was, like the next four as in
            `fastest_way`.
        loss: as there.
        view_shape: as there.
        views: as there.
        view_chunk: as there.

    Raises:
        DpmixError: another engine, or a model or a machine that can't be compiled.
    """
    if engine not in ("auto", "examplewise"):
        raise DpmixError(
            f"compile was given with engine {engine}; expected auto or examplewise: leave out one"
        )
    way = Way("examplewise", view_chunk, compiled=True)
    with preserved(model):
        plain = trial(Way("examplewise", view_chunk), model, loss, view_shape, views)
        fused = trial(way, model, loss, view_shape, views)
        start = time.perf_counter()
        try:
            fused(2)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise DpmixError(
                f"this model can't be compiled here: {reason}; leave out compile, or install what "
                "torch.compile needs (a C++ compiler on a CPU, triton on a GPU)"
            ) from None
        spent = time.perf_counter() - start
        plain(1)
        slow, fast = (min(run(2) for _ in range(3)) for run in (plain, fused))
    gain = (
        f"worth it after {spent / (slow - fast):,.0f} examples"
        if fast < slow
        else "never worth it: leave out --compile"
    )
    times = f"an example takes {1e3 * fast:.3g} ms, without {1e3 * slow:.3g}"
    reason = f"compiled in {spent:.0f} s; {times}: {gain}"
    return Way("examplewise", view_chunk, compiled=True, reason=reason)


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
