"""dpmix: differentially private image classifiers trained with DP-Mix.

import dpmix

result = dpmix.fit(data="mnist5k", epsilon=3)
print(result.evaluation.accuracy, result.plan.epsilon, result.folder)
"""

from dpmix import busy_cores as _busy_cores  # noqa: F401  before torch
from dpmix.fit import fit
from dpmix.make_private import make_private
from dpmix.privacy.clipping import clipped_gradient_sum
from dpmix.privacy.plan import PrivacyPlan
from dpmix.training.step import PrivateTrainer
from dpmix.views import ViewBuilder, ViewSpec

__all__ = [
    "PrivacyPlan",
    "PrivateTrainer",
    "ViewBuilder",
    "ViewSpec",
    "clipped_gradient_sum",
    "fit",
    "make_private",
]
