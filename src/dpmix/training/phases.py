"""Which weights each step of a training changes: all of them, or those of the head alone at first.

Why the plan counts a training in two phases. Which weights a step trains follows from its number,
so it is public. The step clips each gradient to C in the norm over these weights, and adds noise of
sigma C to each of their numbers. One example more changes the sum by at most C, however many
weights there are, so every step is the same mechanism: the Poisson-subsampled Gaussian one of q and
sigma, whose privacy does not depend on the dimension. The plan composes T of them, each of which
may depend on the releases before. A weight that a step does not train has no gradient in it. The
tests are `tests/training/test_phases.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from dpmix.clipping.types import EngineConfig, trainable
from dpmix.errors import DpmixError
from dpmix.models.finetune import frozen_modules


@dataclass(frozen=True)
class HeadFirst:
    """The first `steps` of a training change the weights of `head` alone, the others all.

    Linear probing, then fine-tuning: features are not bent to the gradients of a head that knows
    nothing yet (Kumar et al. 2022, arXiv 2202.10054; under DP: Ke et al. 2024, arXiv 2402.18905).
    """

    head: nn.Module
    steps: int


@dataclass(frozen=True)
class Phase:
    """Consecutive steps that train the same weights.

    Attributes:
        steps: how many.
        part: what trains; None: all that is trainable.
        parameters: its weights, in `model.named_parameters()` order.
        frozen: modules that stay in eval mode.
        engine: how gradients are computed.
    """

    steps: int
    part: nn.Module | None
    parameters: list[nn.Parameter]
    frozen: set[nn.Module]
    engine: EngineConfig


def phases_of(
    model: nn.Module,
    steps: int,
    head_first: HeadFirst | None,
    checked: Callable[[], EngineConfig],
) -> list[Phase]:
    """The phases of `steps` steps; `checked` checks the model as it then trains.

    Raises:
        DpmixError: more steps for the head than there are, or a head without trainable weights.
    """
    parts: list[tuple[int, nn.Module | None]] = [(steps, None)]
    if head_first is not None:
        early = head_first.steps
        if not 0 <= early <= steps:
            raise DpmixError(
                f"head_steps is {early}; expected 0 to {steps}, the steps of the plan: give fewer"
            )
        if not trainable(head_first.head):
            raise DpmixError("the head has no trainable weight to start with; unfreeze it first")
        parts = [(early, head_first.head), (steps - early, None)]
    return [_phase(model, count, part, checked) for count, part in parts]


def _phase(
    model: nn.Module, steps: int, part: nn.Module | None, checked: Callable[[], EngineConfig]
) -> Phase:
    with training_only(model, part):
        parameters = list(trainable(model).values())
        return Phase(steps, part, parameters, frozen_modules(model), checked())


@contextmanager
def training_only(model: nn.Module, part: nn.Module | None) -> Iterator[None]:
    """Freeze, in the body, all weights of `model` but those of `part`; None freezes nothing."""
    kept = {id(p) for p in (part or model).parameters()}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in kept]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
