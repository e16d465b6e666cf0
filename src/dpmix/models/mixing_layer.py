"""Find the layer at which one example's activations begin to depend on the others.

Guarantees nothing about privacy: it only names a culprit for a model already found to mix.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.models.layer_name import layer_name
from dpmix.models.preserved import RandomState


def first_mixing_layer(
    model: nn.Module, one: Float[Tensor, "B ..."], two: Float[Tensor, "B ..."]
) -> str:
    """Name the first layer, innermost first, whose row 0 differs between two batches.

    Args:
        model: the model in the mode to look at.
        one: a batch.
        two: a batch of the same shape and with the same row 0.

    Returns:
        The layer's path and type; the model itself where no layer stands out.
    """
    rng = RandomState(model)
    first = _rows(model, one)
    rng.replay()
    for (path, module, a), (_, _, b) in zip(first, _rows(model, two), strict=False):
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-6):
            return layer_name(path, module)
    return layer_name("", model)


@torch.no_grad()
def _rows(model: nn.Module, batch: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Return row 0 of the output of every layer, in the order in which they finish."""
    rows: list[tuple[str, nn.Module, Tensor]] = []
    paths = {module: path for path, module in model.named_modules()}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim and len(output) == len(batch):
            rows.append((paths[module], module, output[0].detach().clone()))

    hooks = [module.register_forward_hook(record) for module in model.modules()]
    try:
        model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return rows
