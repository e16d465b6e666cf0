"""From examples to views: self-augmentation, mixup inside one example, and each method's spec."""

from dpmix.views.builder import ViewBuilder, ViewSet
from dpmix.views.spec import METHODS, ViewSpec

__all__ = ["METHODS", "ViewBuilder", "ViewSet", "ViewSpec"]
