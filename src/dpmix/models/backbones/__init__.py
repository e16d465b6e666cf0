"""Frozen public feature extractors, by name; one file for each kind."""

from dpmix.models.backbones.load import load_backbone

__all__ = ["load_backbone"]
