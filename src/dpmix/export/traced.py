"""A network as a graph of tensor operations, for any number of images and without its sources.

Guarantee: the graph names no file of this machine, which the exporter would note for every node.
"""

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export

from dpmix.errors import DpmixError, one_line

_EXAMPLES = 2  # an exporter takes one for a constant


def traced(model: nn.Module, image_shape: tuple[int, int, int]) -> ExportedProgram:
    """Trace `model`, which takes uint8 [B, *image_shape], with B left open.

    Raises:
        DpmixError: it does what can't be traced.
    """
    images = torch.zeros(_EXAMPLES, *image_shape, dtype=torch.uint8)
    try:
        program = export(model, (images,), dynamic_shapes=({0: Dim("batch")},))
    # Whatever a network's own code raises while it is traced.
    except Exception as error:
        raise not_exportable(error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def not_exportable(error: Exception) -> DpmixError:
    """The error for a network that an exporter can't write."""
    return DpmixError(
        f"the network can't be exported ({one_line(error)}); use --format hub, which loads it with "
        "dpmix"
    )
