"""One private training step, whole on one screen: draw, view, clip, sum, add noise, update."""

import math
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, NoReturn
from weakref import WeakSet

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from dpmix.clipping.engine import choose_engine, clipped_gradient_sum
from dpmix.clipping.model_check import check_private
from dpmix.clipping.types import (
    ClippedSum,
    Engine,
    EngineConfig,
    Loss,
    soft_cross_entropy,
    trainable,
    zero_sum,
)
from dpmix.data.source import ImageSource, persons_of, unit_count
from dpmix.errors import DpmixError, is_out_of_memory
from dpmix.files import to_json
from dpmix.models.finetune import train_mode
from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Randomness, StepRandomness, torch_seeded
from dpmix.privacy.sampling import PoissonSampler
from dpmix.training.distributed import ALONE, Ranks
from dpmix.training.fitting_parts import refuse_unfit_parts
from dpmix.training.guards import (
    ModelGuard,
    mark_released,
    require_released_gradients,
    require_stateless,
    warn_of_few_persons,
)
from dpmix.training.phases import HeadFirst, Phase, phases_of, training_only
from dpmix.training.weighted import check_weights, weighted_sum
from dpmix.views.builder import ViewSet, ViewSource
from dpmix.views.mixup import random_matching

# Views are built for as many examples at a time as fit in here: in the cache, not in memory.
VIEW_BYTES = 16 * 2**20
STEPS_BETWEEN_COMPARISONS = 100

# From a trainer, examples [E] and the randomness of a step to the examples' clipped sum.
ClipFunction = Callable[["PrivateTrainer", Tensor, StepRandomness], ClippedSum]

_USED: "WeakSet[nn.Module | Optimizer]" = WeakSet()  # by earlier trainers


@dataclass(frozen=True)
class StepDiagnostics:
    """What a step saw of the private data, WITHOUT noise: it must not leave `diagnostics/`.

    Attributes:
        drawn: number of examples in the step.
        loss: mean training loss over them, nan for an empty draw.
        clipped: share of gradients longer than C.
        median_norm: median gradient norm before clipping.
        dropped: number of gradients that were not finite and counted as zero.
    """

    drawn: int
    loss: float
    clipped: float
    median_norm: float
    dropped: int


class PrivateTrainer:
    """Runs the T steps of a plan on a model, and not one more.

    Each step: Poisson draw at rate q; views of each drawn example; the sum of clipped gradients;
    noise; division by the plan's denominator; one step of `optimizer`.
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
        ranks: Ranks = ALONE,
        weights: Float64[Tensor, " U"] | None = None,
        head_first: HeadFirst | None = None,
        sampler: PoissonSampler | None = None,
        noise: GaussianNoise | None = None,
        clipped_sum: ClipFunction | None = None,
    ) -> None:
        """Check the parts and prepare the first step.

        Args:
            model: trained in place, on its device; with several processes, rank 0's weights count.
            data: the private examples; with several processes, those of this process.
            plan: the guarantee; its sensitivity must be the method's.
            views: the method: a `ViewBuilder`, or the features of a frozen backbone
                (`CachedViews`), for which `model` is the head.
            optimizer: any `torch.optim` optimizer over the model's trainable parameters; from now
                on it refuses to step on gradients that no private step released.
            loss: maps logits [K, L] and soft labels [K, L] to losses [K], and keeps no state;
                `multi_label_loss` for several labels an image.
            seed: makes draws and noise repeatable, so the noise can be recomputed; None uses the
                operating system's entropy.
            engine: how gradients are computed, as in `clipped_gradient_sum`.
            view_chunk: most views per forward pass, as in `clipped_gradient_sum`.
            ranks: the processes that train together, each with this same plan and its own data.
            weights: what the clipped gradient of each unit of `data` is multiplied by, in (0, 1],
                each a function of that unit alone (`privacy/balance.py`); None: 1.
            head_first: a part of `model`, and how many of the plan's first steps train it alone.
            sampler: draws the units of a step, none at a rate above the plan's; None: all at it.
            noise: for audits: releases a clipped sum.
            clipped_sum: for audits: replaces the method `clipped_sum`, and may call it.

        Raises:
            DpmixError: a model that can't be trained privately, data that the views do not belong
                to, a plan for another sensitivity, weights that are not one in (0, 1] for each
                unit, or an optimizer over other parameters.
        """
        self.model, self.data = model, data
        self._plan, self._views, self._process = plan, views, os.getpid()
        self._optimizer, self.loss = optimizer, loss
        self._steps_done, self._stepping = 0, threading.Lock()
        parameters = list(trainable(model).values())
        view_shape = views.view_shape(data.image_shape)
        views.check_data(data)
        check_private(model, view_shape)
        require_stateless(loss, model, view_shape)
        self._ranks = ranks
        refuse_unfit_parts(plan, views.spec, optimizer, parameters, ranks)
        if weights is not None:
            check_weights(weights, data, views.spec)
        self._weights = weights
        ranks.require_equal("plan", plan)
        ranks.require_equal("views", views.spec)
        warn_of_few_persons(plan, sum(p.numel() for p in parameters))
        self.device = parameters[0].device
        self._sampler = sampler or PoissonSampler(plan, unit_count(data, plan.unit))
        self._noise = noise or GaussianNoise(plan)
        self._clip = clipped_sum or PrivateTrainer.clipped_sum
        self._randomness = Randomness(seed, ranks.rank)
        ranks.require_equal("head_first", head_first and head_first.steps)

        def checked() -> EngineConfig:
            if len(trainable(model)) < len(parameters):
                check_private(model, view_shape)
            return choose_engine(engine, model, loss, view_shape, views.spec.views, view_chunk)

        self.phases = phases_of(model, plan.steps, head_first, checked)
        self.broadcast_weights()
        self._guard = ModelGuard(model, optimizer)
        require_released_gradients(optimizer)
        if model in _USED or optimizer in _USED:
            warnings.warn(
                "this model or optimizer was given to another private trainer before; this plan's "
                "epsilon does not count the steps taken there: make new ones",
                stacklevel=2,
            )
        _USED.update((model, optimizer))

    @property
    def phase(self) -> Phase:
        """What the next step trains."""
        first = self.phases[0]
        return first if self._steps_done < first.steps else self.phases[-1]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights that the next step trains."""
        return self.phase.parameters

    @property
    def engine(self) -> EngineConfig:
        """How the next step computes gradients."""
        return self.phase.engine

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
        """What another trainer needs to `resume` after this step, without the weights."""
        state = {"plan": asdict(self._plan), "steps_done": self._steps_done}
        if self._plan.unit == "person":
            owner = persons_of(self.data).owner.numpy()
            state["persons_sha256"] = sha256(owner.tobytes()).hexdigest()
        return state

    def resume(self, state: dict[str, Any]) -> None:
        """Continue after the steps that `state` counts, with the seed's draws or with fresh ones.

        Nothing that was computed after `state` was saved may ever have been shown to anyone, or
        some steps are released twice, which the plan does not count.

        Raises:
            DpmixError: this trainer has taken steps, the plan differs, or the count is invalid.
        """
        if self._steps_done:
            raise DpmixError("this PrivateTrainer has taken steps; resume with a new one")
        if to_json(state["plan"]) != to_json(asdict(self._plan)):
            raise DpmixError(
                "the plan differs from that of the saved steps; give PrivacyPlan(**state['plan'])"
            )
        of = state.get("persons_sha256")
        if of is not None and of != self.state()["persons_sha256"]:
            raise DpmixError(
                "the images belong to other persons than in the saved steps; give the same persons"
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
            "cancels out; build another one, with its own plan"
        )

    def step(self) -> StepDiagnostics:
        """Do the next step of the plan, and return private diagnostics of it.

        Raises:
            DpmixError: all steps of the plan are done; the process was forked since the trainer was
                made; the model or the optimizer changed in a way that `ModelGuard` refuses; memory
                ran out; another process ended, or its weights differ; or another thread is in a
                step, which is not counted yet.
        """
        if not self._stepping.acquire(blocking=False):
            raise DpmixError("another thread is in a step of this trainer; step from one thread")
        try:
            return self._step()
        finally:
            self._stepping.release()

    def _step(self) -> StepDiagnostics:
        if os.getpid() != self._process:
            raise DpmixError(
                "this PrivateTrainer was made in another process, which may add the same noise; "
                "make it after the fork"
            )
        self._require_steps_left()
        parameters = self.parameters  # those of the next step may be others
        # At every step: a caller's own model.train() would wake frozen BatchNorm layers.
        train_mode(self.model, self.phase.frozen)
        draws = self._randomness.step(self._steps_done)
        # The noise is rank 0's: the others' sums, without it, go no further.
        noise = self._noise.draw(parameters, draws.noise) if self._ranks.is_main else None
        with self._guard.watching():
            total, diagnostics = self._summed(draws)
        self._ranks.reduce(total)
        # Counted before the release: a step that fails half-way is never forgotten.
        self._steps_done += 1
        noisy = self._noise.release(total, noise) if noise is not None else total
        released = [g.to(p.dtype) for p, g in zip(parameters, noisy, strict=True)]
        self._ranks.broadcast(released)
        for parameter, gradient in zip(parameters, released, strict=True):
            parameter.grad = gradient
        mark_released(released)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._steps_done % STEPS_BETWEEN_COMPARISONS == 0 or self._steps_done == self.plan.steps:
            self._ranks.require_equal_weights(parameters)
        return diagnostics

    def _require_steps_left(self) -> None:
        if self.steps_done >= self.plan.steps:
            raise DpmixError(
                f"all {self.plan.steps} steps of the plan are done; another would exceed its "
                "epsilon: calibrate a plan with more steps, and train a fresh model by it"
            )

    def _summed(self, draws: StepRandomness) -> tuple[list[Tensor], StepDiagnostics]:
        """Draw, clip and add up."""
        drawn = self._sampler.draw(draws.sampling)
        total = zero_sum(self.parameters)
        norms, losses = [torch.empty(0)], [torch.empty(0)]
        try:
            # For dropout: others may know the draws of a generator that the caller seeded.
            with torch_seeded(draws.model, self.device):
                for examples in self._chunks(drawn, draws):
                    part = self._clip(self, examples, draws)
                    torch._foreach_add_(total, part.gradients)
                    norms.append(part.norms)
                    losses.append(part.losses)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise DpmixError(
                f"out of memory with engine {self.engine}; give --engine examplewise with a small "
                "--view-chunk, fewer views, smaller images or a smaller model"
            ) from error
        # Read at the end alone: a GPU would wait for each part.
        norm, loss = (torch.cat([one.double().cpu() for one in some]) for some in (norms, losses))
        return total, StepDiagnostics(
            drawn=len(drawn),
            loss=loss.mean().item(),
            clipped=(norm > self.plan.max_grad_norm).double().mean().item(),
            median_norm=norm.median().item() if len(norm) else math.nan,
            dropped=int((~norm.isfinite()).sum()),
        )

    def _chunks(
        self, drawn: Int64[Tensor, " B"], draws: StepRandomness
    ) -> list[Int64[Tensor, " E"]]:
        """The drawn examples in chunks whose views fit in `VIEW_BYTES`; pairs stay together."""
        members = self.views.spec.examples_per_group
        if members > 1:
            drawn = random_matching(drawn, draws.views)
        numbers = self.views.spec.views * math.prod(self.views.view_shape(self.data.image_shape))
        groups = max(1, VIEW_BYTES // (4 * numbers))
        return [chunk for chunk in drawn.split(groups * members) if len(chunk)]

    def clipped_sum(
        self,
        examples: Int64[Tensor, " E"],
        draws: StepRandomness,
        *,
        views: ViewSource | None = None,
        loss: Loss | None = None,
    ) -> ClippedSum:
        """The clipped sum of `examples`, as a step computes it: private, without noise.

        `draws` is the randomness of a step. `views` and `loss` replace the trainer's, for audits.
        """
        made = (views or self.views).sample(self.data, examples, draws.views, self.device)
        like = next(p for p in self.model.parameters() if p.is_floating_point())

        def clipped(some: ViewSet) -> ClippedSum:
            return clipped_gradient_sum(
                self.model,
                loss or self.loss,
                some.views.to(like.dtype),  # half precision and float64 alike
                some.labels,
                self.plan.max_grad_norm,
                engine=self.engine.name,
                view_chunk=self.engine.view_chunk,
            )

        with training_only(self.model, self.phase.part):
            if self._weights is None:
                return clipped(made)
            return weighted_sum(clipped, made, self._weights[examples])
