"""One private training step, whole on one screen: draw, view, clip, sum, add noise, update."""

import inspect
import math
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn
from weakref import WeakSet

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from dpmix.clipping.engine import choose_way, clipped_gradient_sum
from dpmix.clipping.loss import soft_cross_entropy
from dpmix.clipping.model_check import check_private
from dpmix.clipping.types import ClippedSum, Engine, Loss, trainable, zero_sum
from dpmix.data.source import ImageSource
from dpmix.errors import DpmixError, is_out_of_memory
from dpmix.files import to_json
from dpmix.models.finetune import frozen_modules, train_mode
from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Randomness, StepRandomness, Stream, torch_seeded
from dpmix.privacy.sampling import PoissonSampler
from dpmix.training.distributed import ALONE, Ranks
from dpmix.training.gradient_guard import mark_released, require_released_gradients
from dpmix.training.model_guard import ModelGuard, same_dtype
from dpmix.views.builder import ViewSource
from dpmix.views.mixup import random_matching
from dpmix.views.spec import ViewSpec

# What one step saw of the private data, which is private itself.


@dataclass(frozen=True)
class StepDiagnostics:
    """What a step saw of the private data, WITHOUT noise: never to leave `diagnostics/`.

    Attributes:
        drawn: examples that entered the step.
        loss: mean training loss over them, nan for an empty draw.
        clipped: share of gradients longer than C.
        median_norm: median gradient norm before clipping.
        dropped: gradients that were not finite and counted as zero.
    """

    drawn: int
    loss: float
    clipped: float
    median_norm: float
    dropped: int

    @classmethod
    def of(cls, parts: list[ClippedSum], drawn: int, max_grad_norm: float) -> "StepDiagnostics":
        """Summarise the parts of one step."""
        if not parts:
            return cls(drawn, float("nan"), float("nan"), float("nan"), 0)
        norms = torch.cat([part.norms for part in parts]).double().cpu()
        losses = torch.cat([part.losses for part in parts]).double().cpu()
        return cls(
            drawn=drawn,
            loss=losses.mean().item(),
            clipped=(norms > max_grad_norm).double().mean().item(),
            median_norm=norms.median().item(),
            dropped=int((~torch.isfinite(norms)).sum()),
        )


# Telling of steps that another trainer may have taken on the same weights.


_GIVEN: "WeakSet[nn.Module | Optimizer]" = WeakSet()


def warn_if_reused(model: nn.Module, optimizer: Optimizer) -> None:
    """Steps that another trainer took are in the weights, and no part of the next one's plan."""
    if model in _GIVEN or optimizer in _GIVEN:
        warnings.warn(
            "this model or optimizer was given to another private trainer before; this plan's "
            "epsilon does not count steps that were taken there: make both anew",
            stacklevel=3,
        )
    _GIVEN.update((model, optimizer))


# Do the plan, the views, the optimizer and the processes of a trainer fit together?


def refuse_unfit_parts(
    plan: PrivacyPlan,
    spec: ViewSpec,
    optimizer: Optimizer,
    parameters: list[nn.Parameter],
    ranks: Ranks,
) -> None:
    """Refuse parts whose guarantee would be another than the plan's.

    Args:
        plan: the guarantee, calibrated for one sensitivity.
        spec: the method's views.
        optimizer: what takes the steps.
        parameters: the model's trainable ones.
        ranks: the processes that train together.

    Raises:
        DpmixError: a plan made for another sensitivity, a method that joins examples in several
            processes, or an optimizer over other parameters or that runs the model itself.
    """
    if plan.sensitivity_multiplier != spec.sensitivity_multiplier:
        raise DpmixError(
            f"method {spec.method} has sensitivity {spec.sensitivity_multiplier}C but the plan was "
            f"calibrated for {plan.sensitivity_multiplier}C; give "
            "PrivacyPlan.calibrate(sensitivity_multiplier=spec.sensitivity_multiplier)"
        )
    if ranks.size > 1 and spec.examples_per_group > 1:
        # A shard's bounds move with N, so one example more could rematch every pair.
        raise DpmixError(
            f"method {spec.method} joins examples, which is only proven private in one process; "
            "train it without torchrun"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if held != {id(p) for p in parameters}:
        raise DpmixError(
            "the optimizer holds other parameters than the model's trainable ones; build it over "
            "[p for p in model.parameters() if p.requires_grad]"
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise DpmixError(
            f"optimizer {type(optimizer).__name__} evaluates the loss itself, several times a "
            "step, which no plan counts; use one that takes one gradient a step, such as "
            "torch.optim.SGD or Adam"
        )


ClippedSums = Callable[["PrivateTrainer", Tensor, StepRandomness], ClippedSum]


# Views are built for as many examples at a time as fit in here: in the cache, not in memory.
VIEW_BYTES = 16 * 2**20


STEPS_BETWEEN_COMPARISONS = 100


class PrivateTrainer:
    """Runs the steps of a plan on a model; the plan's T steps and not one more.

    Each step: Poisson draw at rate q; views of each drawn example; the sum of clipped gradients;
    noise; division by the plan's denominator; one step of `optimizer`. Everything that must agree
    with the reported guarantee is built here from the one `plan`.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageSource,
        *,
        plan: PrivacyPlan,
        views: ViewSource,
        optimizer: Optimizer,
        loss: Loss = soft_cross_entropy,
        seed: int | None = None,
        engine: Engine = "auto",
        view_chunk: int | None = None,
        compiled: bool = False,
        ranks: Ranks = ALONE,
        sampler: PoissonSampler | None = None,
        noise: GaussianNoise | None = None,
        clipped_sum: ClippedSums | None = None,
    ) -> None:
        """Wire a run.

        Args:
            model: trained in place, on the device it is on; of several processes, rank 0's.
            data: the private examples; of several processes, this one's.
            plan: the guarantee; its sensitivity must be the method's.
            views: the method: a `ViewBuilder`, or the features of a frozen backbone
                (`training.features.CachedViews`), for which `model` is the head.
            optimizer: any `torch.optim` optimiser over the model's trainable parameters; from now
                on it refuses to step on gradients that no private step released.
            loss: one value per view; it must keep no state from one call to the next.
            seed: None for the operating system's entropy; a seed makes the noise recomputable.
            engine: see `clipped_gradient_sum`.
            view_chunk: see `clipped_gradient_sum`.
            compiled: fuse the passes with `torch.compile`; see `compiled_way`.
            ranks: the processes that train together, each with this same plan and its own data.
            sampler: draws the examples of a step, for audits; None samples `data` by the plan.
            noise: makes the release of a clipped sum, for audits; None adds the plan's noise.
            clipped_sum: from this trainer, the drawn examples and the step's randomness to their
                clipped sum, for audits; None calls the method `clipped_sum`.

        Raises:
            DpmixError: a model that can't be trained privately, data that the views are not for, a
                plan made for another sensitivity, or an optimiser over other parameters.
        """
        self.model, self.data = model, data
        self._plan, self._views, self._process = plan, views, os.getpid()
        self._optimizer, self.loss = optimizer, loss
        self._steps_done, self._short_of_memory = 0, False
        self._stepping = threading.Lock()
        self.parameters = list(trainable(model).values())
        views.check_data(data)
        check_private(model, views.view_shape(data.image_shape))
        self._ranks = ranks
        refuse_unfit_parts(plan, views.spec, optimizer, self.parameters, ranks)
        ranks.require_equal("plan", plan)
        ranks.require_equal("views", views.spec)
        self._frozen = frozen_modules(model)
        self.device = self.parameters[0].device
        self._sampler = sampler or PoissonSampler(plan, len(data))
        self._noise = noise or GaussianNoise(plan)
        self._clip = clipped_sum or type(self).clipped_sum
        self._randomness = Randomness(seed, ranks.rank)
        self.way = choose_way(
            engine,
            model,
            loss,
            views.view_shape(data.image_shape),
            views.spec.views,
            view_chunk,
            passes=plan.steps * plan.denominator * views.spec.views,
            repeatable=seed is not None,
            compiled=compiled,
        )
        self._called = self.way.prepare(model)
        self.broadcast_weights()
        self._guard = ModelGuard(model, optimizer)
        require_released_gradients(optimizer)
        warn_if_reused(model, optimizer)

    @property
    def plan(self) -> PrivacyPlan:
        """The guarantee; fixed, as the noise is."""
        return self._plan

    @property
    def optimizer(self) -> Optimizer:
        """What takes the steps; fixed, as it refuses all other gradients."""
        return self._optimizer

    @property
    def views(self) -> ViewSource:
        """The method; fixed, as its sensitivity is in the plan."""
        return self._views

    @property
    def steps_done(self) -> int:
        """How many of the plan's steps have been taken."""
        return self._steps_done

    def state(self) -> dict[str, Any]:
        """What another trainer needs to go on after this step; no draw that was or will be thrown.

        The weights and the optimizer's state are theirs to save.
        """
        return {"plan": asdict(self._plan), "steps_done": self._steps_done}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on after the steps that `state` counts, with a seed's random draws or with fresh ones.

        Nothing that was computed after `state` was saved may ever have been shown to anyone, or
        some steps are released twice, which the plan does not count.

        Raises:
            DpmixError: steps of this trainer's own, another plan, or no number of its steps.
        """
        if self._steps_done:
            raise DpmixError("this PrivateTrainer has taken steps; resume with a new one")
        if to_json(state["plan"]) != to_json(asdict(self._plan)):
            raise DpmixError(
                "the plan differs from the one that the saved steps ran under; expected the same: "
                "PrivacyPlan(**state['plan'])"
            )
        steps = state["steps_done"]
        if not (isinstance(steps, int) and 0 <= steps <= self._plan.steps):
            raise DpmixError(
                f"steps_done is {steps!r}; expected a number of steps, 0 to {self._plan.steps}"
            )
        self._steps_done = steps

    def broadcast_weights(self) -> None:
        """Give every process the weights of rank 0."""
        state = self.model.state_dict().values()  # extra state can be of any type
        floating = [t for t in state if isinstance(t, Tensor) and t.is_floating_point()]
        self._ranks.broadcast(floating)

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: two copies would release the same noise twice."""
        raise DpmixError(
            "a PrivateTrainer can't be copied: both copies would add the same noise, which then "
            "cancels out; build another one, with a plan of its own"
        )

    def step(self) -> StepDiagnostics:
        """Do the next step of the plan.

        Returns:
            Private diagnostics of the step.

        Raises:
            DpmixError: all steps of the plan are done: one more would exceed its epsilon. Or the
                process was forked since the trainer was made, the model or the optimizer changed
                in what `ModelGuard` watches, another process ended, or its weights came to differ.
                Or another thread is in a step, which is not counted yet.
        """
        if not self._stepping.acquire(blocking=False):
            raise DpmixError("another thread is in a step of this trainer; step from one thread")
        try:
            return self._step()
        finally:
            self._stepping.release()

    def _step(self) -> StepDiagnostics:
        self._refuse_to_go_on()
        # At every step: a caller's own model.train() would wake frozen BatchNorm layers.
        train_mode(self.model, self._frozen)
        with self._guard.watching():
            drawn, total, parts, noise = self._summed()
        self._ranks.reduce(total)
        # Counted before the release: a step that fails half-way is never forgotten.
        self._steps_done += 1
        # The noise is rank 0's: the others' sums, without it, go no further.
        noisy = self._noise.release(total, noise) if self._ranks.is_main else total
        released = [g.to(p.dtype) for p, g in zip(self.parameters, noisy, strict=True)]
        self._ranks.broadcast(released)
        for parameter, gradient in zip(self.parameters, released, strict=True):
            parameter.grad = gradient
        mark_released(released)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._steps_done % STEPS_BETWEEN_COMPARISONS == 0 or self._steps_done == self.plan.steps:
            self._ranks.require_equal_weights(self.parameters)
        return StepDiagnostics.of(parts, drawn, self.plan.max_grad_norm)

    def _summed(self) -> tuple[int, list[Tensor], list[ClippedSum], Stream]:
        """Draw and clip: how many were drawn, the clipped sum, its parts, the noise to come.

        Where memory runs out all of it is done again in a way that needs less, from the draw on:
        the engines round differently, so that no sum may be made by two of them.
        """
        while True:
            draws = self._randomness.step(self._steps_done)
            drawn = self._sampler.draw(draws.sampling)
            total = zero_sum(self.parameters)
            parts = []
            try:
                # For dropout: others may know what a generator draws that the caller seeded.
                with torch_seeded(draws.model, self.device):
                    for examples in self._chunks(drawn, draws):
                        part = self._clip(self, examples, draws)
                        torch._foreach_add_(total, part.gradients)
                        parts.append(part)
                return len(drawn), total, parts, draws.noise
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, whose error holds what the failed pass had allocated.
            self._take_less_memory()

    def _refuse_to_go_on(self) -> None:
        if os.getpid() != self._process:
            raise DpmixError(
                "this PrivateTrainer was made in another process, which may add the same noise; "
                "make it after the fork"
            )
        if self.steps_done >= self.plan.steps:
            raise DpmixError(
                f"all {self.plan.steps} steps of the plan are done; another would exceed its "
                "epsilon: calibrate a plan with more steps, and train a fresh model by it"
            )

    def _chunks(
        self, drawn: Int64[Tensor, " B"], draws: StepRandomness
    ) -> list[Int64[Tensor, " E"]]:
        """The drawn examples in portions whose views fit in `VIEW_BYTES`; pairs stay together."""
        members = self.views.spec.examples_per_group
        if members > 1:
            drawn = random_matching(drawn, draws.views)
        view_bytes = 4 * math.prod(self.views.view_shape(self.data.image_shape))
        group_bytes = self.views.spec.views * view_bytes
        groups = max(1, VIEW_BYTES // group_bytes)
        return [chunk for chunk in drawn.split(groups * members) if len(chunk)]

    def clipped_sum(
        self,
        examples: Int64[Tensor, " E"],
        draws: StepRandomness,
        *,
        views: ViewSource | None = None,
        loss: Loss | None = None,
    ) -> ClippedSum:
        """The clipped sum of `examples` as a step computes it: private, without noise.

        Args:
            examples: indices into `data`, [E].
            draws: the randomness of a step; the views are drawn from it.
            views: replaces the trainer's views, for audits.
            loss: replaces the trainer's loss, for audits.
        """
        made = (views or self.views).sample(self.data, examples, draws.views, self.device)
        return clipped_gradient_sum(
            self._called,
            loss or self.loss,
            same_dtype(made.views, self.model),
            made.labels,
            self.plan.max_grad_norm,
            engine=self.way.engine,
            view_chunk=self.way.view_chunk,
        )

    def _take_less_memory(self) -> None:
        """Take one example and a quarter of its views at a time from now on; but once.

        Raises:
            DpmixError: that was done before.
        """
        if self._short_of_memory:
            raise DpmixError(
                f"out of memory even with {self.way.view_chunk} view(s) of one example at a time; "
                "give --view-chunk 1, fewer views, smaller images or a smaller model"
            )
        self._short_of_memory = True
        chunk = max(1, (self.way.view_chunk or self.views.spec.views) // 4)
        self.way = replace(self.way, engine="examplewise", view_chunk=chunk)
        warnings.warn(f"out of memory: the step is done again with engine {self.way}", stacklevel=2)
