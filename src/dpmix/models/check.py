"""Refuse a model whose gradient of one example cannot be bounded.

Guarantees that a model which passes has a trainable parameter, none left uninitialised, and no
layer of a known kind that mixes examples or keeps running statistics; and, where the shape of an
image is given, that it behaves so (see ``dpmix.models.probe``). This carries the sensitivity
claim of clipping: clip and sum bound one example's influence by C only if its gradient is a
function of that example, the parameters and coins. The test is ``tests/models/test_check.py``.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from dpmix.errors import DpmixError
from dpmix.models.frozen import frozen_modules
from dpmix.models.layer_name import layer_name
from dpmix.models.probe import probe


def check_private(model: nn.Module, image_shape: tuple[int, ...] | None = None) -> None:
    """Refuse what mixes examples or keeps running private statistics.

    Layers are judged in the train/eval mode they are in: a BatchNorm is allowed only if frozen
    (eval mode, no parameter that requires a gradient), which ``train_mode`` then respects.

    Args:
        model: the model about to be trained.
        image_shape: shape of one example, [C, H, W] for an image, [D] for features. None checks
            the kinds of the layers only: state or mixing inside a custom module then passes.

    Raises:
        DpmixError: naming the layer, what is wrong with it, and the remedy.
    """
    frozen = frozen_modules(model)
    for path, module in model.named_modules():
        if module not in frozen:
            _refuse_running_norm(path, module)
        _refuse_batch_statistics(path, module)
        _refuse_uninitialised(path, module)
        _refuse_parameter_hooks(path, module)
        _refuse_what_no_copy_runs(path, module)
    if not any(p.requires_grad for p in model.parameters()):
        raise DpmixError(
            f"model {type(model).__name__} has no trainable parameter: expected at least one with "
            "requires_grad; add a head, or unfreeze a layer with .requires_grad_(True)"
        )
    if image_shape is not None:
        probe(model, image_shape)


def _refuse_running_norm(path: str, module: nn.Module) -> None:
    """Refuse BatchNorm (Sync and Lazy too) and InstanceNorm with running statistics."""
    if isinstance(module, _BatchNorm):
        raise DpmixError(
            f"{layer_name(path, module)} mixes the examples of a batch and keeps their "
            "statistics; replace it by GroupNorm, fold it into the convolution before it, or "
            "freeze it: .eval() and .requires_grad_(False)"
        )
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        raise DpmixError(
            f"{layer_name(path, module)} keeps running statistics of private images; set "
            "track_running_stats=False, replace it by GroupNorm, or freeze it: .eval() and "
            ".requires_grad_(False)"
        )


def _refuse_batch_statistics(path: str, module: nn.Module) -> None:
    """Refuse a BatchNorm that has only the batch's statistics to use, in eval mode too."""
    if isinstance(module, _BatchNorm) and module.running_mean is None:
        raise DpmixError(
            f"{layer_name(path, module)} has no running statistics, so it mixes the examples of "
            "a batch even when frozen; replace it by GroupNorm"
        )


def _refuse_uninitialised(path: str, module: nn.Module) -> None:
    """Refuse lazy parameters: their shape would come from the first private batch."""
    for name, parameter in module.named_parameters(recurse=False):
        if is_lazy(parameter):
            raise DpmixError(
                f"{layer_name(path, module)} has the uninitialised parameter '{name}'; run one "
                "forward on public input of the right shape first"
            )


def _refuse_parameter_hooks(path: str, module: nn.Module) -> None:
    """Refuse hooks on gradients: they can keep state, and the probe's copies lose them."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter._backward_hooks:
            raise DpmixError(
                f"{layer_name(path, module)} has a hook on the gradient of '{name}', which can "
                "carry one example into the next; remove it"
            )


def _refuse_what_no_copy_runs(path: str, module: nn.Module) -> None:
    """Refuse a forward that was put on the object: its copy would go on running the original."""
    if "forward" in vars(module):
        raise DpmixError(
            f"{layer_name(path, module)} has its forward replaced on the object, so the check "
            "would not see what runs; wrap the model in a module of its own instead"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise DpmixError(
            f"{layer_name(path, module)} is compiled by torch.jit, so what it keeps can't be "
            "checked; give the module that it was compiled from"
        )
