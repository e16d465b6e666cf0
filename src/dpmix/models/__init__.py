"""Models, built by name, and the frozen backbones that they can stand on."""

from dpmix.models.registry import MODEL_NAMES, build_model, parameter_count
from dpmix.models.train_mode import frozen_modules, train_mode

__all__ = [
    "MODEL_NAMES",
    "build_model",
    "frozen_modules",
    "parameter_count",
    "train_mode",
]
