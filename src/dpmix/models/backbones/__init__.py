"""Frozen public feature extractors, by name."""

from dpmix.models.backbones.load import load_backbone

__all__ = ["load_backbone"]
