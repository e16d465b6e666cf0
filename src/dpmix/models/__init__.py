"""Models: built by name, and checked for what private training cannot bear."""

from dpmix.models.check import check_private
from dpmix.models.frozen import frozen_modules, train_mode
from dpmix.models.parameter_count import parameter_count
from dpmix.models.registry import MODEL_NAMES, build_model

__all__ = [
    "MODEL_NAMES",
    "build_model",
    "check_private",
    "frozen_modules",
    "parameter_count",
    "train_mode",
]
