"""Ways to compute one and the same clipped sum, and ordinary training on the same views.

Every way takes a model, views [G, K, ...] and soft labels [G, K, L] and returns the gradient as a
list of tensors in the order of `model.parameters()`. A library that can't run a model says so.
"""

import copy
from collections.abc import Callable
from functools import partial

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.clipping.types import soft_cross_entropy
from dpmix.models import build_model
from dpmix.models.backbones.backbone import fold_batch_norm
from dpmix.models.wide_resnet import WSConv2d

CLASSES = 10
Runs = Callable[[], list[Tensor]]


def wide_resnet() -> nn.Module:
    """WRN-16-4 with weight-standardised convolutions, as `dpmix` trains it."""
    return build_model("wrn-16-4", in_channels=3, num_classes=CLASSES)


def plain_wide_resnet() -> nn.Module:
    """The same with ordinary convolutions, for which every library has a rule of its own."""
    model = wide_resnet()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, WSConv2d):
                plain = nn.Conv2d(
                    child.in_channels, child.out_channels, child.kernel_size, child.stride,
                    child.padding,
                )  # fmt: skip
                setattr(module, name, plain)
    return model


def vit_tiny() -> nn.Module:
    """ViT-Ti/16, all of it trained."""
    return timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=CLASSES)


def mobilenet() -> nn.Module:
    """MobileNetV2 with its BatchNorm folded, all of it trained."""
    model = torchvision.models.mobilenet_v2(num_classes=CLASSES, dropout=0.0).eval()
    fold_batch_norm(model)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "wrn-16-4": (wide_resnet, 32),
    "wrn-16-4-plain": (plain_wide_resnet, 32),
    "vit-tiny": (vit_tiny, 64),
    "mobilenet-v2": (mobilenet, 96),
}
"""Name -> (how to build it, pixels)."""

ENGINES = ("examplewise", "vectorized", "bookkeeping")


def non_private(model: nn.Module, views: Tensor, labels: Tensor, batch: int) -> list[Tensor]:
    """The limit: forward and backward over all views, `batch` at a time; nothing per example."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    parts = zip(views.flatten(0, 1).split(batch), labels.flatten(0, 1).split(batch), strict=True)
    for some, targets in parts:
        loss = soft_cross_entropy(model(some), targets).sum() / views.shape[1]
        torch._foreach_add_(total, torch.autograd.grad(loss, parameters))
    return total


def dpmix(
    model: nn.Module, views: Tensor, labels: Tensor, max_grad_norm: float, engine: str
) -> list[Tensor]:
    """This library."""
    return clipped_gradient_sum(
        model, soft_cross_entropy, views, labels, max_grad_norm, engine=engine
    ).gradients


def functorch(
    model: nn.Module, views: Tensor, labels: Tensor, max_grad_norm: float
) -> list[Tensor]:
    """Per-example gradients of all examples at once by `torch.func`, as its tutorial has it."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def mean_loss(values: dict[str, Tensor], some: Tensor, targets: Tensor) -> Tensor:
        return soft_cross_entropy(functional_call(model, values, (some,)), targets).mean()

    rows = vmap(grad(mean_loss), in_dims=(None, 0, 0))(parameters, views, labels)
    return _clip_rows(list(rows.values()), max_grad_norm)


def opacus_hooks(
    model: nn.Module, views: Tensor, labels: Tensor, max_grad_norm: float
) -> list[Tensor]:
    """A gradient per view by opacus' hooks, averaged over the views of an example."""
    groups, count = views.shape[:2]
    model.zero_grad()
    soft_cross_entropy(model(views.flatten(0, 1)), labels.flatten(0, 1)).sum().backward()
    rows = []
    for parameter in model.parameters():
        per_view = parameter.grad_sample
        rows.append(per_view.view(groups, count, *parameter.shape).mean(dim=1))
        parameter.grad_sample = None
    return _clip_rows(rows, max_grad_norm)


def opacus_ghost(
    model: nn.Module, criterion: Callable, views: Tensor, labels: Tensor
) -> list[Tensor]:
    """Ghost clipping: norms first, then a weighted backward; one view an example only."""
    model.zero_grad()
    criterion(model(views[:, 0]), labels[:, 0]).backward()
    return [parameter.grad for parameter in model.parameters()]


def opake(grad_fn: Callable, state: object, parameters: dict[str, Tensor], views: Tensor,
          labels: Tensor) -> list[Tensor]:  # fmt: skip
    """`clipped_grad` on a function of one example with all its views."""
    gradients, _ = grad_fn(parameters, views, labels, state=state)
    return list(gradients.pytree.values())


def _clip_rows(rows: list[Tensor], max_grad_norm: float) -> list[Tensor]:
    norms = torch.stack([row.flatten(1).norm(dim=1) for row in rows]).norm(dim=0)
    weights = (max_grad_norm / norms).clamp(max=1.0)
    return [torch.einsum("g,g...->...", weights, row) for row in rows]


def non_private_way(name: str, model: nn.Module, views: Tensor, labels: Tensor) -> Runs:
    """The pass called `name`, which ends with its batch size."""
    if "channels last" in name:
        model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return partial(non_private, model, views, labels, int(name.split()[-1]))


def private_way(
    name: str, model: nn.Module, views: Tensor, labels: Tensor, max_grad_norm: float
) -> Runs:
    """The way called `name`, ready to run.

    Raises:
        Exception: whatever the library raises for a model that it can't run.
    """
    given = (views, labels, max_grad_norm)
    if name.startswith("dpmix "):
        return partial(dpmix, model, *given, name.removeprefix("dpmix "))
    if name == "functorch":
        return partial(functorch, model, *given)
    if name == "opacus":
        from opacus import GradSampleModule

        return partial(
            opacus_hooks, GradSampleModule(copy.deepcopy(model), loss_reduction="sum"), *given
        )
    if name == "opacus ghost":
        return _ghost(model, *given)
    assert name == "opake", name
    return _opake(model, *given)


def _ghost(model: nn.Module, views: Tensor, labels: Tensor, max_grad_norm: float) -> Runs:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    if views.shape[1] > 1:
        raise ValueError("a gradient of several views has no ghost norm")

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return soft_cross_entropy(logits, targets)

    class PerView(nn.Module):
        reduction = "sum"

        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            return loss(logits, targets)

    wrapped = GradSampleModuleFastGradientClipping(
        copy.deepcopy(model),
        max_grad_norm=max_grad_norm,
        use_ghost_clipping=True,
        loss_reduction="sum",
    )

    class Optimizer:
        loss_reduction = "sum"

        def zero_grad(self) -> None:
            wrapped.zero_grad()

    criterion = DPLossFastGradientClipping(wrapped, Optimizer(), PerView(), loss_reduction="sum")
    return partial(opacus_ghost, wrapped, criterion, views, labels)


def _opake(model: nn.Module, views: Tensor, labels: Tensor, max_grad_norm: float) -> Runs:
    from opake.dpsgd.clipping import clipped_grad

    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def mean_loss(values: dict[str, Tensor], some: Tensor, targets: Tensor) -> Tensor:
        return soft_cross_entropy(functional_call(model, values, (some,)), targets).mean()

    grad_fn, state = clipped_grad(mean_loss, clipping_norm=max_grad_norm, batch_argnums=(1, 2))
    return partial(opake, grad_fn, state, parameters, views, labels)
