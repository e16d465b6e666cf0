"""dpmix: differentially private image classifiers trained with DP-Mix.

import dpmix

result = dpmix.fit(data="mnist5k", epsilon=3)
print(result.evaluation.accuracy, result.plan.epsilon, result.folder)
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Set before torch is imported, which reads this once. GNU OpenMP lets a waiting thread spin for
# milliseconds; on cores that other jobs use, most time would be lost so (a demo of 26 s took 602 s
# next to two jobs on two cores, and 42 s with this).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# Loaded on first use: torch, SciPy and dp-accounting take seconds, and `dpmix --help` needs none.
if TYPE_CHECKING:
    from dpmix.clipping.engine import clipped_gradient_sum
    from dpmix.privacy.plan import PrivacyPlan
    from dpmix.runs.fit import fit
    from dpmix.training.make_private import make_private
    from dpmix.training.trainer import PrivateTrainer
    from dpmix.views.builder import ViewBuilder
    from dpmix.views.spec import ViewSpec

_MODULES = {
    "PrivacyPlan": "dpmix.privacy.plan",
    "PrivateTrainer": "dpmix.training.trainer",
    "ViewBuilder": "dpmix.views.builder",
    "ViewSpec": "dpmix.views.spec",
    "clipped_gradient_sum": "dpmix.clipping.engine",
    "fit": "dpmix.runs.fit",
    "make_private": "dpmix.training.make_private",
}

__all__ = [
    "PrivacyPlan",
    "PrivateTrainer",
    "ViewBuilder",
    "ViewSpec",
    "clipped_gradient_sum",
    "fit",
    "make_private",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dpmix' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
