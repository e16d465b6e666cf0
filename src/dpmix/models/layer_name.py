"""How an error names a layer: by its path in the model and its type."""

from torch import nn


def layer_name(path: str, module: nn.Module) -> str:
    """Return ``layer 'features.1' (BatchNorm2d)``, or ``model (Net)`` for the root."""
    kind = type(module).__name__
    return f"layer '{path}' ({kind})" if path else f"model ({kind})"
