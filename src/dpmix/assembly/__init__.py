"""From settings to the parts of a run, nothing trained or written yet."""

from dpmix.assembly.parts import Assembly
from dpmix.assembly.wiring import assemble

__all__ = ["Assembly", "assemble"]
