"""dpmix: differentially private image classifiers trained with DP-Mix.

import dpmix

result = dpmix.fit(data="mnist5k", epsilon=3)
print(result.evaluation.accuracy, result.plan.epsilon, result.folder)
"""

from dpmix import openmp as _openmp  # noqa: F401  before torch
from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.privacy.plan import PrivacyPlan
from dpmix.runs.fit import fit
from dpmix.training.make_private import make_private
from dpmix.training.trainer import PrivateTrainer
from dpmix.views.builder import ViewBuilder
from dpmix.views.spec import ViewSpec

__all__ = [
    "PrivacyPlan",
    "PrivateTrainer",
    "ViewBuilder",
    "ViewSpec",
    "clipped_gradient_sum",
    "fit",
    "make_private",
]
