"""From right and wrong guesses to a lower bound on epsilon, at a stated confidence.

All hold for every mechanism and every guesser: if the mechanism is (epsilon, delta)-DP, a bound
comes out above epsilon with probability at most 1 - confidence.
"""

import math

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

_LARGEST_EPSILON = 100.0
_FEW = 4


def one_run_epsilon(
    correct: int, guesses: int, canaries: int, delta: float, confidence: float
) -> float:
    """Lower bound from guesses which of many canaries, each with probability 1/2, were in one run.

    Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846, theorem 5.2): under (epsilon, delta)-DP the
    number of right guesses, on canaries chosen by their scores alone, exceeds a Binomial(guesses,
    e^epsilon / (1 + e^epsilon)) one by no more than a term in delta. Nothing is assumed about how
    the canaries act on one another. `confidence` is the probability that the bound holds.
    """

    def p_value(epsilon: float) -> float:
        law = stats.binom(guesses, 1 / (1 + math.exp(-epsilon)))
        if delta == 0:
            return float(law.sf(correct - 1))
        below = np.cumsum(law.pmf(np.arange(correct - 1, -1, -1)))
        worst = float(np.max(below / np.arange(1, correct + 1))) if correct else 0.0
        return float(law.sf(correct - 1)) + 2 * canaries * delta * worst

    if p_value(0.0) > 1 - confidence:
        return 0.0
    # The largest epsilon that is rejected; every smaller one is too.
    low, high = 0.0, _LARGEST_EPSILON
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) <= 1 - confidence else (low, middle)
    return low


def best_one_run_epsilon(
    scores: Float64[np.ndarray, " M"],
    included: Bool[np.ndarray, " M"],
    delta: float,
    confidence: float,
) -> float:
    """The one-run bound for guesses by score, the best of a few numbers of guesses.

    The highest k are guessed in and the lowest k out, for k of M/2, M/4 and so on; the risk is
    shared among them.
    """
    order = np.argsort(scores)
    sizes = [k for k in (len(scores) >> shift for shift in range(1, 11)) if k >= 1]
    shared = 1 - (1 - confidence) / len(sizes)
    bounds = []
    for k in sizes:
        correct = int(included[order[-k:]].sum() + (~included[order[:k]]).sum())
        bounds.append(one_run_epsilon(correct, 2 * k, len(scores), delta, shared))
    return max(bounds)


def two_world_epsilon(
    false_positives: int, outs: int, false_negatives: int, ins: int, delta: float, confidence: float
) -> float:
    """Lower bound from one fixed test that tells "in" from "out" over independent trials.

    Both error rates are bounded from above by Clopper and Pearson (1934), each at half of the risk;
    then (epsilon, delta)-DP asks fpr + e^epsilon fnr >= 1 - delta, and with the two exchanged
    (Kairouz, Oh, Viswanath 2015; used for audits by Nasr et al. 2021, arXiv 2101.04535).
    """
    risk = (1 - confidence) / 2
    fpr, fnr = _upper(false_positives, outs, risk), _upper(false_negatives, ins, risk)
    ratios = [(1 - delta - one) / other for one, other in ((fpr, fnr), (fnr, fpr))]
    return max(0.0, *(math.log(ratio) if ratio > 0 else 0.0 for ratio in ratios))


def best_two_world_epsilon(
    outs: Float64[np.ndarray, " O"], ins: Float64[np.ndarray, " I"], delta: float, confidence: float
) -> float:
    """The two-world bound of a threshold, chosen on one half of the scores, tried on the other."""
    if min(len(outs), len(ins)) < _FEW:
        return 0.0

    def bound(cut: float, half: int) -> float:
        out, in_ = outs[half::2], ins[half::2]
        positives, negatives = int((out > cut).sum()), int((in_ <= cut).sum())
        return two_world_epsilon(positives, len(out), negatives, len(in_), delta, confidence)

    tail = np.geomspace(1 / len(outs), 0.5, 100)
    cuts = [*np.quantile(outs[::2], 1 - tail), *np.quantile(ins[::2], tail)]
    return bound(float(max(cuts, key=lambda cut: bound(cut, 0))), 1)


def _upper(errors: int, trials: int, risk: float) -> float:
    """Clopper and Pearson's upper bound of an error rate."""
    return float(stats.beta.ppf(1 - risk, errors + 1, trials - errors)) if errors < trials else 1.0
