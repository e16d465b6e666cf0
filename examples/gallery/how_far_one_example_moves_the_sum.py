"""Why ordinary mixup does not fit: how far the clipped sum moves when one example leaves.

    python examples/gallery/how_far_one_example_moves_the_sum.py --output moves.png

DP-SGD adds noise in proportion to the largest distance that one example can move the sum. With
DP-Mix that is C. With ordinary mixup an image is part of two gradients, and without the image both
are gone, so the sum moves by up to 2 C. (If the other image gets a new partner, its gradient
changes instead, which can move the sum even farther.) Measured here for every example of a batch of
public digits.
"""

import argparse
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import dpmix
from dpmix.data import load_splits, normalization
from dpmix.models import build_model

C = 0.1  # small enough that every gradient is clipped


def clipped_sum(model: torch.nn.Module, views: Tensor, labels: Tensor) -> Tensor:
    loss = partial(torch.nn.functional.cross_entropy, reduction="none")  # of soft labels
    made = dpmix.clipped_gradient_sum(model, loss, views, labels, C)
    return torch.cat([part.flatten() for part in made.gradients])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--output", default="how_far_one_example_moves_the_sum.png")
    settings = parser.parse_args()
    count = settings.examples

    digits = load_splits("mnist5k").train
    rng = np.random.default_rng(0)
    chosen = torch.from_numpy(rng.permutation(len(digits))[:count])
    images, labels = digits.images(chosen), digits.labels[chosen]
    torch.manual_seed(0)
    model = build_model("cnn-small", in_channels=1, num_classes=10)

    # DP-Mix: an example's gradient depends on its views alone.
    builder = dpmix.ViewBuilder(
        dpmix.ViewSpec("mix-self", k_base=4, k_self=4, flip=False), 10, normalization("half", 1)
    )
    own = builder.build(images, labels, builder.draw_views(count, rng))
    whole = clipped_sum(model, own.views, own.labels)
    rest = torch.arange(count)
    dp_mix = [
        (whole - clipped_sum(model, own.views[rest != i], own.labels[rest != i])).norm() / C
        for i in range(count)
    ]

    # Ordinary mixup: image i is mixed with image i + 1.
    plain = normalization("half", 1)(images)
    soft = torch.nn.functional.one_hot(labels, 10).float()
    weight = torch.from_numpy(rng.beta(1.0, 1.0, count)).float()
    partner = rest.roll(-1)
    views = weight[:, None, None, None] * plain + (1 - weight)[:, None, None, None] * plain[partner]
    targets = weight[:, None] * soft + (1 - weight)[:, None] * soft[partner]
    whole = clipped_sum(model, views[:, None], targets[:, None])
    mixup = []
    for i in range(count):
        kept = (rest != i) & (partner != i)
        mixup.append(
            (whole - clipped_sum(model, views[kept, None], targets[kept, None])).norm() / C
        )

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    bins = np.arange(0.025, 2.1, 0.05).tolist()
    axes.hist(np.array(dp_mix), bins, color="#0072B2", alpha=0.8, label="DP-Mix, 4 + 4 views")
    axes.hist(np.array(mixup), bins, color="#D55E00", alpha=0.6, label="ordinary mixup")
    axes.axvline(1, color="black", lw=1, ls="--")
    axes.set(
        xlabel="how far the sum moves when one example leaves, in units of C", ylabel="examples"
    )
    axes.legend(frameon=False)
    figure.savefig(settings.output, dpi=130)
    print(f"farthest: DP-Mix {max(dp_mix):.3f} C, ordinary mixup {max(mixup):.3f} C")


if __name__ == "__main__":
    main()
