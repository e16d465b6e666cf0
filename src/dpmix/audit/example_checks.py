"""Whether one example moves the sum by at most C: its norm, its neighbours, its views.

Some examples of every class are tried before and after training, and one after each step. Each is
clipped by itself, and once more with a loss that is many times as large, so that clipping has work
to do whatever the weights. A sum that is the sum of what its examples add by themselves, each of
norm C or less, has sensitivity C.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from dpmix.audit.canaries import CanaryTrainer, flat
from dpmix.audit.invariants import Invariant, exactly
from dpmix.data.source import ImageSource
from dpmix.views.builder import ViewSet
from dpmix.views.spec import ViewSpec

# Examples of each class at least, and in all; and of a group whose views are built together.
_OF_A_CLASS, _IN_ALL, _TOGETHER = 2, 32, 8


# Norms and sums are float64, but of gradients in float32; kernels may differ with the batch's size,
# and round to TF32 off the CPU.
_ROUNDING, _CPU_KERNELS, _KERNELS = 1e-5, 1e-3, 1e-2


# Gradients are made this long, in C. Those that were shorter than the second, or than this part of
# the longest, are mostly rounding by then.
_LOUD, _AUDIBLE, _PART = 100.0, 1e-3, 1e-2


class ExampleChecks:
    """Tries some examples of every class.

    Args:
        trainer: with its canaries planted.
        rng: of the choice.
    """

    def __init__(self, trainer: CanaryTrainer, rng: np.random.Generator) -> None:
        self._trainer, self._rng, self._bound = trainer, rng, trainer.plan.max_grad_norm
        data = trainer.data
        chosen = of_every_class(data.labels, len(data.class_names), rng)
        self._groups = chosen.tensor_split(-(-len(chosen) // _TOGETHER))
        self._too_long = self._joined = self._infinite = self._compared = False

    def clip(self, *, compare: bool) -> None:
        """Clip them at the weights as they are now.

        Args:
            compare: what they add one by one with what they add together. After training, some
                gradients may be too small for that: mostly rounding.
        """
        for group in self._groups:
            self._clip(group, compare=compare)

    def hear(self, used: Int64[Tensor, " B"]) -> None:
        """Clip one of the examples that the last step used."""
        own = used[used < len(self._trainer.data)]
        if len(own):
            self._clip(own[int(self._rng.integers(len(own)))][None], compare=False)

    def _clip(self, group: Int64[Tensor, " G"], *, compare: bool) -> None:
        trainer = self._trainer
        seen = trainer.views.sample(trainer.data, group, self._rng, trainer.device)
        views = _Pinned(trainer.views.spec, group, seen)
        self._infinite |= bool(self._sum(group, views, math.inf)[0].any())
        raw = [self._sum(one[None], views, 1.0)[1] for one in group]
        least = max(_AUDIBLE * self._bound, _PART * max(raw))
        loud = [norm >= least for norm in raw]
        alone = torch.zeros((), dtype=torch.float64)
        for one, norm, counts in zip(group, raw, loud, strict=True):
            total, _ = self._sum(one[None], views, self._loudness(norm) if norm else 1.0)
            alone = alone + total if counts else alone
        if not compare or sum(loud) < 2 or not self._repeatable(group[:1], views):
            return
        loudness = self._loudness(min(norm for norm in raw if norm >= least))
        together, _ = self._sum(group[torch.tensor(loud)], views, loudness)
        kernels = _CPU_KERNELS if trainer.device.type == "cpu" else _KERNELS
        self._joined |= float((together - alone).norm()) > kernels * self._bound * sum(loud)
        self._compared = True

    def _loudness(self, norm: float) -> float:
        """What makes a gradient of that norm surely longer than C: a power of two.

        The engine tries every new loss on noise first, which takes a second: so there are few.
        """
        return 2.0 ** math.ceil(math.log2(_LOUD * self._bound / norm))

    def clipping(self) -> Invariant:
        """Whether none added more than C, nor another vector next to others than by itself."""
        bound = self._bound * self._trainer.plan.sensitivity_multiplier
        longest = self._trainer.ear.longest > 1 + _ROUNDING
        found = f"examples of every class, none above sensitivity {bound:.6g}"
        together = ", whatever others are clipped with it"
        # Their norms themselves are private.
        return exactly(
            "clipped gradients",
            found + (together if self._compared else ""),
            {
                "some examples above the sensitivity": self._too_long,
                "a step's sum is longer than its number of examples allows": longest,
                "what an example adds depends on the others": self._joined,
                "a gradient that is not finite counts": self._infinite,
            },
        )

    def views(self) -> Invariant:
        """Whether an example's views stay as they are when another one takes its neighbour's place.

        All views of a group are built together, with the same random draws.
        """
        trainer, moved = self._trainer, 0
        name, count = "views of one example", len(trainer.data)
        if count < 2:
            return Invariant(name, True, "there is one example only", tested=False)
        for group in self._groups:
            seed = int(self._rng.integers(1 << 62))
            whole = self._built(group, seed)
            for place in range(len(group)):
                changed, others = group.clone(), torch.arange(len(group)) != place
                changed[place] += int(self._rng.integers(1, count))
                after = self._built(changed % count, seed)
                moved += not (
                    torch.equal(whole.views[others], after.views[others])
                    and torch.equal(whole.labels[others], after.labels[others])
                )
        found = "examples of every class, none changed the views of another"
        return exactly(name, found, {"some examples changed the views of another": moved > 0})

    def _sum(
        self, examples: Int64[Tensor, " E"], views: "_Pinned", loudness: float
    ) -> tuple[Float64[Tensor, " P"], float]:
        """What they add together, and the first one's norm before clipping; 0 if not finite."""
        part = self._trainer.sum_of(examples, views, loudness)
        total, norm = flat(part.gradients), float(part.norms[0])
        self._too_long |= float(total.norm()) > self._bound * len(examples) * (1 + _ROUNDING)
        return total, norm if math.isfinite(norm) else 0.0

    def _repeatable(self, one: Int64[Tensor, " 1"], views: "_Pinned") -> bool:
        """Whether two passes are alike: with dropout they are not."""
        return torch.equal(*(self._sum(one, views, 1.0)[0] for _ in range(2)))

    def _built(self, group: Int64[Tensor, " G"], seed: int) -> ViewSet:
        rng, trainer = np.random.default_rng(seed), self._trainer
        return trainer.views.sample(trainer.data, group, rng, trainer.device)


def of_every_class(
    labels: Int64[Tensor, " N"], classes: int, rng: np.random.Generator
) -> Int64[Tensor, " E"]:
    """Two random examples of each class, or as many as make 32; those of a class side by side."""
    shuffled = rng.permutation(len(labels))
    own = labels.numpy()[shuffled]
    order = np.argsort(own, kind="stable")
    own = own[order]
    place = np.arange(len(own)) - np.searchsorted(own, own)
    return torch.from_numpy(shuffled[order[place < max(_OF_A_CLASS, _IN_ALL // classes)]])


@dataclass(frozen=True)
class _Pinned:
    """A `ViewSource` of views that were built before, so that two sums are of the same ones."""

    spec: ViewSpec
    examples: Int64[Tensor, " E"]
    seen: ViewSet

    def view_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        return tuple(self.seen.views.shape[2:])

    def check_data(self, data: ImageSource) -> None:
        """They were built of it."""

    def sample(
        self,
        data: ImageSource,
        examples: Int64[Tensor, " B"],
        rng: np.random.Generator,
        device: torch.device,
    ) -> ViewSet:
        rows = torch.stack([torch.nonzero(self.examples == one)[0, 0] for one in examples])
        return ViewSet(self.seen.views[rows], self.seen.labels[rows])
