"""What a private step sees of ONE image: its own crops, and mixtures of those.

    python examples/gallery/views_of_one_image.py --output views.png

Every pixel of a row comes from the image at its left: nothing of another example is mixed in, which
is why the step's sensitivity stays C. The digits come with a package and are public.
"""

import argparse

import numpy as np
import torch
from matplotlib.figure import Figure

import dpmix
from dpmix.data import load_splits, normalization

EXAMPLES = [30, 1500, 3100]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", default="views_of_one_image.png")
    picture = parser.parse_args().output

    digits = load_splits("mnist5k").train
    images, labels = digits.images(torch.tensor(EXAMPLES)), digits.labels[EXAMPLES]
    spec = dpmix.ViewSpec("mix-self", k_base=4, k_self=6, flip=False, mixup_alpha=1.0)
    builder = dpmix.ViewBuilder(spec, num_classes=10, normalization=normalization("half", 1))
    draws = builder.draw_views(len(EXAMPLES), np.random.default_rng(0))
    views = builder.build(images, labels, draws).views  # [examples, K, C, H, W]

    figure = Figure(figsize=(9, 2.7), layout="constrained")
    grid = figure.subplots(len(EXAMPLES), 1 + spec.views)
    for row, image, own in zip(grid, images, views, strict=True):
        row[0].imshow(image[0], cmap="gray")
        for axes, view in zip(row[1:], own, strict=True):
            axes.imshow(view[0], cmap="gray", vmin=-1, vmax=1)
        for axes in row:
            axes.set_axis_off()
    grid[0][0].set_title("private", fontsize=8)
    names = [f"crop {i + 1}" for i in range(spec.k_base)]
    names += [f"mixture {i + 1}" for i in range(spec.k_self)]
    for axes, name in zip(grid[0][1:], names, strict=True):
        axes.set_title(name, fontsize=8)
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    main()
