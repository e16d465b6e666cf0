"""Examples to views: self-augmentation, mixup inside one example, and the spec of every method."""

from dpmix.views.spec import METHODS, ViewSpec
from dpmix.views.view_set import ViewBuilder, ViewSet

__all__ = ["METHODS", "ViewBuilder", "ViewSet", "ViewSpec"]
