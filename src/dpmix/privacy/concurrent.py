"""Engine `concurrent`: as `examplewise`, with one example at a time on each core of a CPU.

A few views are too little for one pass to keep several cores busy. Here each core has a pass of its
own, on a copy of the model's modules that shares its weights, so that nothing a module keeps during
a pass is seen by another example. What would still be shared is refused: hooks, which may point to
the original, and coins, whose order would depend on how fast the other examples are. The memory is
that of one example's views for each core.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.core_pool import one_example_a_core
from dpmix.privacy.clipping import CannotRunError, ClippedSum, Loss
from dpmix.privacy.examplewise import examplewise_sum


def concurrent_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    view_chunk: int | None,
) -> ClippedSum:
    """As `clipped_gradient_sum`; `view_chunk` bounds the views of one forward pass, exactly.

    Raises:
        CannotRunError: a model with hooks, one that draws coins, or one that can't be copied.
    """
    cores = torch.get_num_threads() if views.device.type == "cpu" else 1
    if cores == 1 or not len(views):
        return examplewise_sum(model, loss, views, labels, max_grad_norm, view_chunk)
    # A lone example has one core too: on more its last bits could differ, and so tell that it is
    # alone.
    workers = min(cores, len(views))
    _refuse_what_is_shared(model, views[0, :1])
    replicas = [_replica(model) for _ in range(workers)]

    def work(place: int) -> ClippedSum:
        some, targets = views[place::workers], labels[place::workers]
        return examplewise_sum(replicas[place], loss, some, targets, max_grad_norm, view_chunk)

    with one_example_a_core(views.device) as map_:
        parts = list(map_(work, range(workers)))
    total = parts[0].gradients
    for part in parts[1:]:
        torch._foreach_add_(total, part.gradients)
    norms, losses = parts[0].norms.new_empty(len(views)), parts[0].losses.new_empty(len(views))
    for place, part in enumerate(parts):
        norms[place::workers], losses[place::workers] = part.norms, part.losses
    return ClippedSum(total, norms, losses, engine="concurrent")


def _replica(model: nn.Module) -> nn.Module:
    """Modules of its own over the same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    try:
        return copy.deepcopy(model, shared)
    except Exception as error:
        raise CannotRunError(
            f"engine concurrent needs a copy of {type(model).__name__}, which can't be made: "
            f"{error}; use engine 'examplewise'"
        ) from error


def _refuse_what_is_shared(model: nn.Module, view: Float[Tensor, "1 *view"]) -> None:
    for name, module in model.named_modules():
        hooks = (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
            module._backward_pre_hooks,
        )  # fmt: skip
        if any(hooks):
            raise CannotRunError(
                f"engine concurrent: layer '{name or type(module).__name__}' has hooks, which the "
                "copies for each core would share; use engine 'examplewise'"
            )
    before = torch.get_rng_state()
    with torch.no_grad():
        model(view)
    if not torch.equal(before, torch.get_rng_state()):
        torch.set_rng_state(before)
        raise CannotRunError(
            f"engine concurrent: {type(model).__name__} draws random numbers (dropout?), whose "
            "order would depend on the other examples; use engine 'examplewise'"
        )
