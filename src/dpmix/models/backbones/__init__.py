"""Frozen public feature extractors, by name; one file for each kind."""

from dpmix.models.backbones.load import BUILT_IN, LIBRARIES, load_backbone

__all__ = ["BUILT_IN", "LIBRARIES", "load_backbone"]
