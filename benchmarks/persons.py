"""Does it pay to use all images of a person, to crop them, and to mix them?

    python benchmarks/persons.py digits SEEDS
    python benchmarks/persons.py features SEEDS CIFAR10.npz

Persons are made from public images, each with m of them: of random classes, of one class, or of a
Dirichlet(0.3) mixture of classes. `digits` trains `cnn-small` from scratch on 250 persons;
`features` trains a head on EfficientNet-Lite0 for 10,000 images of CIFAR-10. Every row has the same
persons, N, noise, steps and number of views, and the rate of the default rule. Delta is 1e-5.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch

from dpmix.data.named import load_splits
from dpmix.data.source import Subset
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.runs.fit import train_run

PERSONS, EPSILONS = 250, (3.0, 8.0)
ROWS = {
    "one image, self-aug": ("self-aug", {"k_base": 8}, True),
    "all images, none": ("none", {}, False),
    "all images, self-aug": ("self-aug", {"k_base": 8}, False),
    "all images, mix-self": ("mix-self", {"k_base": 4, "k_self": 4}, False),
    "all images, mix-self, alpha 1": (
        "mix-self", {"k_base": 4, "k_self": 4, "mixup_alpha": 1.0}, False,
    ),
}  # fmt: skip


def assigned(labels: np.ndarray, persons: int, m: int, kind: str) -> list[list[int]]:
    """The places of each person's images."""
    rng = np.random.default_rng(0)
    if kind == "random classes":
        order = rng.permutation(len(labels))[: persons * m]
        return order.reshape(persons, m).tolist()
    classes = int(labels.max()) + 1
    left = [rng.permutation(np.flatnonzero(labels == c)).tolist() for c in range(classes)]
    made = []
    for _ in range(persons):
        shares = rng.dirichlet([0.3] * classes)
        if kind == "one class":
            shares = np.eye(classes)[rng.choice([c for c in range(classes) if len(left[c]) >= m])]
        own: list[int] = []
        while len(own) < m:
            there = shares * np.array([bool(some) for some in left])
            there = there if there.sum() else np.array([float(len(some)) for some in left])
            own.append(left[rng.choice(classes, p=there / there.sum())].pop())
        made.append(own)
    return made


def saved(splits, places: list[list[int]], path: Path) -> None:
    """Write the persons' images and the test images as an .npz file."""
    train, test = splits.train, splits.test
    order = torch.tensor([place for own in places for place in own])
    owner = np.array([person for person, own in enumerate(places) for _ in own])
    pixels = [part.images(some).permute(0, 2, 3, 1).numpy() for part, some in
              ((train, order), (test, torch.arange(len(test))))]  # fmt: skip
    np.savez(
        path, x_train=pixels[0], y_train=train.labels[order].numpy(), train_person=owner,
        x_test=pixels[1], y_test=test.labels.numpy(), test_person=np.arange(len(test)) + 10**6,
        class_names=np.array(train.class_names),
    )  # fmt: skip


def accuracy(data: Path, method: str, views: dict, epsilon: float, seed: int, more: dict) -> float:
    """Train once, and return the accuracy on the test images in %."""
    config = Config.load(
        data=str(data), method=method, epsilon=epsilon, seed=seed, delta=1e-5, crop_padding=1,
        output=str(data.parent / "run"), overwrite=True, eval_every=10**6, **views, **more,
    )  # fmt: skip
    return 100 * train_run(build_run(config)).evaluation.accuracy


def cells(kind: str) -> Iterator[tuple[int, str]]:
    """Images of a person, and how their classes are drawn."""
    yield 8, "random classes"
    yield 8, "one class"
    if kind == "digits":
        yield 2, "random classes"
        yield 16, "random classes"


def main() -> None:
    """Print one line for each cell, row and epsilon."""
    kind, seeds = sys.argv[1], range(int(sys.argv[2]))
    torch.set_num_threads(1)
    if kind == "digits":
        splits, persons = load_splits("mnist5k"), PERSONS
        more = {"model": "cnn-small", "flip": False}
    else:
        splits = load_splits(sys.argv[3], train_images=10_000)
        some = Subset.of(splits.test, torch.arange(4000))
        splits = type(splits)(splits.name, splits.train, some, flip=True)
        more = {"backbone": "efficientnet-lite0"}
    with tempfile.TemporaryDirectory() as temporary:
        if kind == "features":
            more["cache_dir"] = temporary + "/features"
        for m, of in cells(kind):
            persons = PERSONS if kind == "digits" else 10_000 // m
            places = assigned(splits.train.labels.numpy(), persons, m, of)
            path, single = Path(temporary) / "persons.npz", Path(temporary) / "single.npz"
            saved(splits, places, path)
            saved(splits, [own[:1] for own in places], single)
            for epsilon, (row, (method, views, one)) in product(EPSILONS, ROWS.items()):
                if "alpha" in row and (m, of) != (8, "random classes"):
                    continue
                if kind == "features":  # embedded once
                    views = views | {"cache_views": 8}
                found = [
                    accuracy(single if one else path, method, views, epsilon, seed, more)
                    for seed in seeds
                ]
                spread = statistics.stdev(found) if len(found) > 1 else float("nan")
                print(
                    f"| {m} | {of} | {epsilon:g} | {row} | {statistics.mean(found):.1f} ± "
                    f"{spread:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
