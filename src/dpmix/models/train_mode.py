"""Which layers are frozen, and how to switch a model to training without waking them.

Guarantees that the layers which ``check_private`` let pass because they are frozen stay so: it
and the training loop both use ``train_mode``, never a bare ``model.train()``.
"""

from torch import nn

# How an error names a layer: by its path in the model and its type.


def layer_name(path: str, module: nn.Module) -> str:
    """Return ``layer 'features.1' (BatchNorm2d)``, or ``model (Net)`` for the root."""
    kind = type(module).__name__
    return f"layer '{path}' ({kind})" if path else f"model ({kind})"


def frozen_modules(model: nn.Module) -> set[nn.Module]:
    """Return the modules that are, or lie inside, a frozen one, and are in eval mode themselves.

    A module is frozen if it is in eval mode and has parameters, none of which requires a
    gradient. One without parameters (Dropout) is frozen only inside such a module, since a model
    that was just evaluated has all its layers in eval mode and must wake.
    """
    roots = [module for module in model.modules() if _is_frozen(module)]
    return {inner for root in roots for inner in root.modules() if not inner.training}


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return not module.training and bool(parameters) and not any(p.requires_grad for p in parameters)


def train_mode(model: nn.Module, frozen: set[nn.Module] | None = None) -> None:
    """Put a model into train mode, all but its frozen modules.

    Args:
        model: the model.
        frozen: what was frozen when it was checked; None judges it as it is now.
    """
    frozen = frozen_modules(model) if frozen is None else frozen
    model.train()
    for module in frozen:
        module.training = False
