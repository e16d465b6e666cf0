"""Curves of a run in TensorBoard or Weights & Biases, through their own writers.

Guarantee: what they are sent is public or covered by the guarantee: epsilon of the steps so far
(`PrivacyPlan.epsilon_after` says when that holds), and the accuracy and loss on images that are not
protected, at each evaluation. No point carries the time at which it was computed, since the time
between two steps tells how many examples were drawn. Only `log_private_diagnostics` adds what was
computed without noise.
"""

from dpmix.tracking.open import open_trackers
from dpmix.tracking.tracker import Tracker

__all__ = ["Tracker", "open_trackers"]
