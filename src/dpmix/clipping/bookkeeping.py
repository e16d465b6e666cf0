"""Engine `bookkeeping`: one forward, one backward and one product a layer for many units at once.

Per-unit norms come from each layer's inputs and output gradients; then the sum of the clipped
gradients is one product over all units, each weighted by its clipping factor (Bu et al. 2023, arXiv
2210.00038, "book-keeping"). The K views of a unit are added before its norm is taken.

Sensitivity: a unit's rows of inputs and output gradients, and so its norm, are the same to the bit
whatever other units there are, where a probe has seen it (`place_probe`). But the weighted product
adds the rows of up to `MAX_CPU_VIEWS` views in float32: the sum of a portion is off by rounding,
which is the larger the more the views of a unit cancel. Portions are added in float64. So
this engine is never chosen by `auto`, and the statement of a run that used it says what it does
(`tests/properties/test_sensitivity.py` holds it to 1e-4 C).

That a layer's rule is right for a model is checked on noise, against `examplewise`.
"""

from functools import reduce
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd

from dpmix.clipping.accumulator import clip_root, sum_dtype
from dpmix.clipping.examplewise import examplewise_sum, portions
from dpmix.clipping.layer_rules import PRODUCT, RULES, squares_of_written
from dpmix.clipping.model_check import RandomState, copy_of
from dpmix.clipping.place_probe import draw_weights
from dpmix.clipping.types import (
    CannotRunError,
    ClippedSum,
    Loss,
    trainable,
    unit_losses,
    zero_sum,
)
from dpmix.clipping.vectorized import MAX_CPU_VIEWS, MAX_DEVICE_VIEWS
from dpmix.models.finetune import layer_name

# Most numbers written for the gradients of all units (128 MiB of float32).
_NUMBERS = 1 << 25
_SMALL_ROOT = 1e-18  # its square is still a normal number in float32
_EXACT = (torch.float32, torch.float64)
# Units that are compared with `examplewise`, and the relative distance that rounding explains.
_UNITS, _TOLERANCE = 3, 1e-4
# Parameters of a transformer that no layer owns: [1, T, D], added or put before each view's tokens.
_TOKENS = ("cls_token", "pos_embed", "reg_token", "dist_token", "class_token", "pos_embedding")

_equal: "WeakKeyDictionary[nn.Module, set[tuple[object, ...]]]" = WeakKeyDictionary()


class _Seen(NamedTuple):
    """Rows of all views that a linear layer saw."""

    weight: str
    layer: nn.Linear
    inputs: Tensor
    grads: Tensor


class _Pass(NamedTuple):
    products: list[_Seen]  # layers whose weight's gradient is a product
    written: dict[str, Float[Tensor, "R ..."]]  # all other gradients of each unit, by parameter
    norms: Float64[Tensor, " R"]
    losses: Float[Tensor, " R"]
    logits: Float[Tensor, "R K L"]


def bookkeeping_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    units: int,
) -> ClippedSum:
    """As `clipped_gradient_sum`, computing R = `units` units at a time."""
    parameters = trainable(model)
    total = dict(zip(parameters, zero_sum(list(parameters.values())), strict=True))
    norms, losses = [views.new_zeros(0)], [views.new_zeros(0)]
    for some, targets, count in portions(views, labels, units):
        seen = _passed(model, loss, some, targets)
        roots = clip_root(seen.norms, max_grad_norm)
        roots[count:] = 0.0
        for name, rows in seen.written.items():
            total[name] += _weighted_sum(rows, roots)
        of_view = roots.repeat_interleave(some.shape[1])
        for layer in seen.products:
            total[layer.weight] += _weighted_product(layer, of_view)
        norms.append(seen.norms[:count])
        losses.append(seen.losses[:count])
    return ClippedSum(
        list(total.values()), torch.cat(norms), torch.cat(losses), engine="bookkeeping"
    )


def _weighted_sum(
    rows: Float[Tensor, "R ..."], roots: Float64[Tensor, " R"]
) -> Float[Tensor, "..."]:
    kept, factors = _without_dropped(rows.flatten(1), roots), roots.square()
    if not _fit_float32(roots):
        kept = kept.double()
    return (factors.to(kept.dtype) @ kept).view(rows.shape[1:])


def _weighted_product(layer: _Seen, roots: Float64[Tensor, " V"]) -> Float[Tensor, "O I"]:
    inputs, grads = (_without_dropped(rows, roots) for rows in (layer.inputs, layer.grads))
    shaped = roots.view(-1, *(1,) * (grads.ndim - 1)).to(grads.dtype)
    if _fit_float32(roots):
        return PRODUCT.summed(layer.layer, inputs, grads * shaped.square())
    return PRODUCT.summed(layer.layer, inputs * shaped, grads * shaped)


def _fit_float32(roots: Float64[Tensor, "..."]) -> bool:
    """Whether the clipping factors are normal numbers in float32 (see `clip_root`)."""
    return not bool(((roots > 0) & (roots < _SMALL_ROOT)).any())


def _without_dropped(rows: Float[Tensor, "R ..."], roots: Float64[Tensor, " R"]) -> Tensor:
    """Zeros where the root is: zero times a number that is not finite is not zero."""
    if bool(roots.all()):
        return rows
    return torch.where(roots.view(-1, *(1,) * (rows.ndim - 1)) > 0, rows, 0.0)


def bookkeeping_units(model: nn.Module, views: Float[Tensor, "G K *view"]) -> int:
    """R, the units computed at a time: a function of the model and of the shape of a unit."""
    most = MAX_CPU_VIEWS if views.device.type == "cpu" else MAX_DEVICE_VIEWS
    written = sum(
        p.numel()
        for layer in model.modules()
        for p in layer.parameters(recurse=False)
        if p.requires_grad and type(layer) is not nn.Linear
    )
    return max(1, min(most // views.shape[1], _NUMBERS // max(1, written)))


def bookkeeping_numbers(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "R K *view"],
    labels: Float[Tensor, "R K L"],
    alike: bool,
) -> list[Float[Tensor, "R ..."]]:
    """Every number computed for each unit; there is no dropout, so units are always `alike`."""
    seen = _passed(model, loss, views, labels)
    rows = [tensor for layer in seen.products for tensor in (layer.inputs, layer.grads)]
    apart = [one.reshape(*views.shape[:2], -1) for one in rows]
    return [seen.norms, seen.losses, seen.logits, *seen.written.values(), *apart]


def require_equal(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
) -> None:
    """Compare norms and clipped sum of three units of noise with those of `examplewise`.

    A model may use a layer in a way that its rule does not know, such as on tokens whose first
    dimension is not the views'. Weights are random and all numbers float64, so that neither zeros
    nor kinks hide or make a difference. Only shapes of `views` and `labels` are read.

    Raises:
        CannotRunError: they differ.
    """
    key = (
        loss, views.shape[1:], labels.shape[1:], views.device,
        *((p.shape, p.requires_grad) for p in model.parameters()),
        *((m.training, *m._forward_hooks, *m._forward_pre_hooks) for m in model.modules()),
    )  # fmt: skip
    if key in _equal.setdefault(model, set()):
        return
    _trained_layers(model)  # a copy would not be compiled
    generator, state = torch.Generator().manual_seed(0), RandomState(model)
    try:
        subject = copy_of(model)
        draw_weights(subject, generator)
        subject = subject.to(sum_dtype(views.device))
        like = next(subject.parameters())
        noise = torch.randn(_UNITS, *views.shape[1:], generator=generator).to(like)
        soft = torch.rand(_UNITS, *labels.shape[1:], generator=generator).softmax(-1).to(like)
        free = examplewise_sum(subject, loss, noise, soft, torch.inf, None)
        middle = float(free.norms.median())  # so that some are clipped
        theirs = examplewise_sum(subject, loss, noise, soft, middle, None)
        ours = bookkeeping_sum(subject, loss, noise, soft, middle, _UNITS)
    finally:
        state.replay()
    flat = [torch.cat([g.flatten() for g in one.gradients]) for one in (ours, theirs)]
    off = float((flat[0] - flat[1]).norm() / flat[1].norm())
    same = torch.allclose(ours.norms, free.norms.to(ours.norms), rtol=_TOLERANCE)
    if not (same and off <= _TOLERANCE):
        raise CannotRunError(
            "bookkeeping does not compute this model's gradients: on noise, they were off by "
            f"{off:.1g} of their length"
        )
    _equal[model].add(key)


def _passed(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "R K *view"],
    labels: Float[Tensor, "R K L"],
) -> _Pass:
    units, count = views.shape[:2]
    if sum_dtype(views.device) != torch.float64:
        raise CannotRunError(f"bookkeeping needs float64, which {views.device} lacks")
    if views.dtype not in _EXACT or torch.is_autocast_enabled(views.device.type):
        raise CannotRunError("bookkeeping can't bound what half precision rounds away")
    layers, tokens = _trained_layers(model)
    # A copy for each view, so that views have separate gradients.
    copies = {
        name: p.detach().expand(units * count, *p.shape[1:]).requires_grad_()
        for name, p in tokens.items()
    }
    inputs: dict[nn.Module, Tensor] = {}
    shapes: list[torch.Size] = []
    # Of the outputs as they are now: a later layer may change them in place.
    outputs: dict[nn.Module, GradientEdge] = {}

    def note(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        if layer in outputs or len(given) != 1 or {len(given[0]), len(made)} != {units * count}:
            raise CannotRunError(
                f"bookkeeping knows no layer that is used twice, or not on all views: "
                f"{layer_name(layers[layer], layer)}"
            )
        inputs[layer], outputs[layer] = given[0].detach(), get_gradient_edge(made)
        shapes.append(made.shape)

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        given = (views.flatten(0, 1),)
        logits = functional_call(model, copies, given) if copies else model(*given)
    finally:
        for handle in handles:
            handle.remove()
    logits = logits.view(units, count, -1)
    losses = unit_losses(loss, logits, labels).mean(dim=1)
    wanted: list[Any] = [*outputs.values(), *copies.values()]
    found = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
    shapes += [one.shape for one in copies.values()]
    # What the loss does not depend on has gradient zero.
    grads = [
        losses.new_zeros(shape) if grad is None else grad
        for grad, shape in zip(found, shapes, strict=True)
    ]
    with torch.no_grad():
        rows = {layer: (inputs[layer], g) for layer, g in zip(outputs, grads, strict=False)}
        of_copies = dict(zip(copies, grads[len(outputs) :], strict=True))
        products, written, norms = _measured(layers, rows, of_copies, units)
    return _Pass(products, written, norms, losses.detach(), logits.detach())


def _measured(
    layers: dict[nn.Module, str],
    rows: dict[nn.Module, tuple[Tensor, Tensor]],
    of_copies: dict[str, Tensor],
    units: int,
) -> tuple[list[_Seen], dict[str, Tensor], Float64[Tensor, " R"]]:
    """What is summed as a product, what was written, and the norms of both together."""
    written = {name: grad.unflatten(0, (units, -1)).sum(dim=1) for name, grad in of_copies.items()}
    products, squares = list[_Seen](), list[Tensor]()
    for layer, (inputs, grads) in rows.items():
        trained = {name for name, p in layer.named_parameters() if p.requires_grad}
        made = RULES[type(layer)].written(layer, inputs, grads, units)
        path = f"{layers[layer]}." if layers[layer] else ""
        written |= {path + name: one for name, one in made.items() if name in trained}
        if isinstance(layer, nn.Linear) and "weight" in trained:
            products.append(_Seen(path + "weight", layer, inputs, grads))
            squares.append(PRODUCT.squares(layer, inputs, grads, units))
    squares += [squares_of_written(one) for one in written.values()]
    return products, written, reduce(torch.add, squares).sqrt()


def _trained_layers(
    model: nn.Module,
) -> tuple[dict[nn.Module, str], dict[str, nn.Parameter]]:
    """The layers that have trained parameters, with their paths, and trained tokens."""
    layers, tokens = dict[nn.Module, str](), dict[str, nn.Parameter]()
    named = trainable(model).keys()
    for path, module in model.named_modules():
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise CannotRunError(
                f"bookkeeping can't look into {layer_name(path, module)}, which is compiled"
            )
        if isinstance(module, _DropoutNd) and module.training and module.p:
            raise CannotRunError(
                f"bookkeeping draws no dropout unit by unit: {layer_name(path, module)}"
            )
        own = {n: p for n, p in module.named_parameters(recurse=False) if p.requires_grad}
        if not own:
            continue
        if all(name in _TOKENS and p.ndim == 3 and len(p) == 1 for name, p in own.items()):
            prefix = f"{path}." if path else ""
            tokens |= {prefix + name: p for name, p in own.items()}
            continue
        rule = RULES.get(type(module))
        reason = "it is of another kind" if rule is None else rule.refusal(module)
        if not named >= {f"{path}.{name}".removeprefix(".") for name in own}:
            reason = "it shares a parameter with another layer"
        if reason:
            raise CannotRunError(
                f"bookkeeping has no rule for {layer_name(path, module)}: {reason}"
            )
        layers[module] = path
    return layers, tokens
