"""Where a head starts: at the words of its classes, or where a head fitted to public images ends.

Guarantee: a start reads class names, public weights and public images, and nothing private. So its
epsilon is 0, and private training from it has the sensitivity that it has from zero
(`tests/properties/test_head_start.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor

from dpmix.errors import DpmixError
from dpmix.models.head import LinearHead

HeadStart = Literal["zero", "text", "pool"]

HELD_OUT = 5  # one image in five says when to stop
MOST_STEPS, PATIENCE = 1000, 30


@dataclass(frozen=True)
class PoolFit:
    """How a head was fitted to a pool.

    Attributes:
        images: number of labelled public images.
        steps: number of steps, chosen on the held-out part.
        accuracy: on the held-out part of the pool, of the head that was fitted to the rest.
        without: indices of the classes that no image has; their rows are the mean of the others'.
    """

    images: int
    steps: int
    accuracy: float
    without: tuple[int, ...]


def start_from_pool(
    head: LinearHead,
    features: Float[Tensor, "P D"],
    labels: Int64[Tensor, " P"],
) -> PoolFit:
    """Fit a softmax head to public features, without privacy, and write it into `head`.

    A head that is fitted to four images of five shows on the fifth after how many steps to stop;
    the head that counts takes as many on all of them.

    Args:
        head: changed in place.
        features: of public images, as the backbone gives them.
        labels: class of each; images with a label below 0 are left out.

    Raises:
        DpmixError: fewer than two classes have an image.
    """
    labels = labels.to(features.device)
    labelled = labels >= 0
    x, y = head.scaled(features[labelled]).float(), labels[labelled]
    classes, y = y.unique(return_inverse=True)
    if len(classes) < 2:
        raise DpmixError(
            f"head_start pool: the pool has labelled images of {len(classes)} class; expected two "
            "classes or more: add images, or use --head-start zero"
        )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    held, rest = order[: len(x) // HELD_OUT], order[len(x) // HELD_OUT :]
    judge = (x[held], y[held]) if len(held) else None
    _, steps, accuracy = _fit(x[rest], y[rest], len(classes), MOST_STEPS, judge)
    (weight, bias), _, _ = _fit(x, y, len(classes), steps, None)
    with torch.no_grad():
        head.linear.weight.copy_(weight.mean(dim=0))
        head.linear.bias.copy_(bias.mean())
        head.linear.weight[classes] = weight
        head.linear.bias[classes] = bias
    present = set(classes.tolist())
    absent = tuple(i for i in range(head.linear.out_features) if i not in present)
    return PoolFit(len(x), steps, accuracy, absent)


def _fit(
    x: Float[Tensor, "P D"],
    y: Int64[Tensor, " P"],
    classes: int,
    steps: int,
    judge: tuple[Float[Tensor, "H D"], Int64[Tensor, " H"]] | None,
) -> tuple[tuple[Tensor, Tensor], int, float]:
    """Full-batch SGD from zero; with `judge`, stop when its loss has not fallen for a while."""
    weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(classes, device=x.device, requires_grad=True)
    rate = 100 / float(x.square().sum(dim=1).mean())  # the same for features of any length
    optimizer = torch.optim.SGD([weight, bias], lr=rate, momentum=0.9)
    least, best, accuracy = float("inf"), steps, float("nan")
    for step in range(1, steps + 1):
        F.cross_entropy(F.linear(x, weight, bias), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if judge is None:
            continue
        with torch.no_grad():
            scores = F.linear(judge[0], weight, bias)
            loss = float(F.cross_entropy(scores, judge[1]))
        if loss < least:
            least, best = loss, step
            accuracy = float((scores.argmax(dim=1) == judge[1]).float().mean())
        elif step - best >= PATIENCE:
            break
    return (weight.detach(), bias.detach()), best, accuracy


def start_from_text(
    head: LinearHead, prompts: Sequence[Sequence[str]], embed: Callable[[list[str]], Tensor],
    scale: float,
) -> None:  # fmt: skip
    """Write the zero-shot classifier of a text tower into `head` (Radford et al. 2021, 3.1.4).

    A class's row is the mean of the unit embeddings of its prompts, of unit length again, times
    `scale`: the logits are then `scale` times the cosine of image and class.

    Args:
        head: changed in place; its features have unit norm times `head.length`.
        prompts: one or more texts for each class, in class order.
        embed: maps T texts to [T, D], in the space of the image features.
        scale: what the cosine is multiplied by, such as the text tower's own.
    """
    if head.norm != "unit":
        raise DpmixError(
            f"head_start text compares directions, and feature_norm {head.norm} changes them; "
            "leave out --feature-norm"
        )
    rows = [F.normalize(embed(list(texts)).float(), dim=1).mean(dim=0) for texts in prompts]
    with torch.no_grad():
        head.linear.weight.copy_(F.normalize(torch.stack(rows), dim=1) * (scale / head.length))
        head.linear.bias.zero_()
