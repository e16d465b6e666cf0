"""What must hold in every step of a private run: how a test says it, and what it may get wrong.

Each statistical test accuses a sound mechanism with a probability of about `RISK`. An audit makes
some fifteen of them, so that a false alarm comes in fewer than 1 of 10,000 audits
(`tests/audit/test_invariants.py`). All other tests are exact comparisons, or bounds with room for
rounding, which accuse no sound mechanism.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

RISK = 1e-6


@dataclass(frozen=True)
class Invariant:
    """One of them.

    Attributes:
        name: in a few words.
        holds: whether it was found to; True where it was not tested.
        found: what was seen.
        tested: whether these settings allow the test.
    """

    name: str
    holds: bool
    found: str
    tested: bool = True


def by_chance(name: str, found: str, tests: Mapping[str, float]) -> Invariant:
    """An invariant that fails if chance explains one of its tests too badly.

    Args:
        name: of the invariant.
        found: what was seen.
        tests: what each looks for, and its p-value; not empty.
    """
    failed = [f"{what}: p {p:.1g}" for what, p in tests.items() if not p > RISK]
    together = f"p {worst_of(list(tests.values())):.2g}"
    return Invariant(name, not failed, f"{found} ({'; '.join(failed) or together})")


def exactly(name: str, found: str, failed: Mapping[str, bool]) -> Invariant:
    """An invariant that fails if one of `failed` was seen; its names say what."""
    seen = [what for what, was_seen in failed.items() if was_seen]
    return Invariant(name, not seen, "; ".join(seen) or found)


def two_sided(law: Any, value: Any) -> Any:
    """P-values of `value` under a distribution frozen by SciPy: numbers, or arrays of one shape."""
    # The upper tail of whole numbers holds `value` itself.
    discrete = isinstance(law.dist, stats.rv_discrete)
    return np.minimum(1.0, 2 * np.minimum(law.cdf(value), law.sf(value - discrete)))


def worst_of(p_values: Any) -> float:
    """The p-value of the smallest of several (Bonferroni)."""
    found = np.asarray(p_values, dtype=float).ravel()
    return min(1.0, float(found.min()) * len(found))
