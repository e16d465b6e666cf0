"""What must hold in every step of a private run, tested on the running code.

Each test has a chance of about `RISK` to accuse a sound mechanism. They find what a bound on
epsilon needs too many trials for: noise of another size, or left out where nobody was drawn;
batches that are not Poisson draws; gradients of more than C; views that know another example.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from scipy import stats

from dpmix.audit.canary_trainer import CanaryTrainer
from dpmix.views import ViewBuilder

RISK = 1e-6
_TRIED, _MANY_STEPS = 8, 30
# Norms and sums are float64, but for gradients of float32.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Invariant:
    """One of them.

    Attributes:
        name: in a few words.
        holds: whether it was found to.
        found: what was seen.
    """

    name: str
    holds: bool
    found: str


def noise_is_planned(heard: list[Float64[np.ndarray, " O"]], sigma: float) -> Invariant:
    """Whether what was heard of canaries that were out is N(0, sigma^2), in every step by itself.

    Args:
        heard: of each step.
        sigma: the noise multiplier.
    """
    name = "noise in every step"
    if not len(heard[0]):
        return Invariant(name, True, "NOT TESTED: no canary was out; give more")
    tests = [_two_sided(stats.chi2(len(s)), float((s**2).sum()) / sigma**2) for s in heard]
    worst = min(1.0, min(tests) * len(tests))
    spread = float(np.sqrt(np.concatenate(heard).var())) / sigma
    found = f"{spread:.4f} of the plan's sigma over {len(heard)} steps (p {worst:.2g})"
    return Invariant(name, worst > RISK, found)


def draws_are_poisson(drawn: list[int], examples: int, rate: float) -> Invariant:
    """Whether the sizes of the draws are Binomial(N, q): their sum, and how they vary.

    Args:
        drawn: examples of each step.
        examples: N, canaries that are in included.
        rate: q.
    """
    steps, sizes = len(drawn), np.array(drawn)
    name = "draws of examples"
    if rate == 1:
        return Invariant(name, bool((sizes == examples).all()), "everyone in every step (q = 1)")
    whole = stats.binom(steps * examples, rate)
    variance = examples * rate * (1 - rate)
    spread = float(((sizes - examples * rate) ** 2).sum()) / variance
    # Of few expected examples a sum of squares is no chi square: its own variance then says.
    kurtosis = (1 - 6 * rate * (1 - rate)) / variance
    scale = 1 + kurtosis / 2
    spreads = stats.gamma(steps / (2 * scale), scale=2 * scale)
    tests = [
        # A few sizes can well be what is expected, all of them: only of many that is too even.
        _two_sided(whole, int(sizes.sum())),
        _two_sided(spreads, spread) if steps >= _MANY_STEPS else 2 * float(spreads.sf(spread)),
    ]
    worst = min(1.0, 2 * min(tests))
    # Not their number itself: where N is not public, that would tell it.
    found = f"sizes of {steps} draws are those of Binomial(N, q) (p {worst:.2g})"
    return Invariant(name, worst > RISK, found)


def norms_are_bounded(trainer: CanaryTrainer) -> Invariant:
    """Whether an example by itself adds no more than the sensitivity to the sum."""
    plan, count = trainer.plan, min(_TRIED, len(trainer.data))
    largest = max(trainer.norm_of(example) for example in range(count))
    bound = plan.max_grad_norm * plan.sensitivity_multiplier
    holds = largest <= bound * (1 + _ROUNDING)
    # Their norms themselves are private.
    found = f"{count} examples, {'none' if holds else 'some'} above sensitivity {bound:.6g}"
    return Invariant("clipped gradients", holds, found)


def views_are_isolated(trainer: CanaryTrainer) -> Invariant | None:
    """Whether an example's views stay as they are when another example changes; None if cached."""
    views, data = trainer.views, trainer.data
    if not isinstance(views, ViewBuilder) or len(data) < 2:
        return None
    index = torch.arange(min(_TRIED, len(data)))
    images, labels = data.images(index), data.labels[index]
    coins = views.draw_coins(len(index), np.random.default_rng())
    whole = views.build(images, labels, coins)
    moved = []
    for place in range(len(index)):
        others = index != place
        changed = images.clone()
        changed[place] = 255 - changed[place]
        after = views.build(changed, labels, coins)
        moved.append(not torch.equal(whole.views[others], after.views[others]))
        moved.append(not torch.equal(whole.labels[others], after.labels[others]))
    found = f"{sum(moved)} of {len(index)} changed images moved another's views"
    return Invariant("views of one example", not any(moved), found)


def _two_sided(law: Any, value: float) -> float:
    """Of a distribution frozen by SciPy; the upper tail of whole numbers holds `value` itself."""
    discrete = isinstance(law.dist, stats.rv_discrete)
    return float(2 * min(law.cdf(value), law.sf(value - discrete)))
