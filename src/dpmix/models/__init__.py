"""Models by name, and heads on frozen public backbones."""

from dpmix.models.registry import MODEL_NAMES, build_model, parameter_count

__all__ = ["MODEL_NAMES", "build_model", "parameter_count"]
