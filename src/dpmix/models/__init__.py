"""Models by name, and the frozen backbones and heads that replace them."""

from dpmix.models.finetune import frozen_modules, train_mode
from dpmix.models.registry import MODEL_NAMES, build_model, parameter_count

__all__ = [
    "MODEL_NAMES",
    "build_model",
    "frozen_modules",
    "parameter_count",
    "train_mode",
]
