"""A trained run in forms that other programs load: ONNX, torch.export, a folder for the hub.

Guarantees: what is written has the privacy statement of the very weights in it beside or inside of
it, names no path of this machine, and gave the run's own answers before it was put in place.
"""

from dpmix.export.write import FORMATS, Exported, export_run

__all__ = ["FORMATS", "Exported", "export_run"]
