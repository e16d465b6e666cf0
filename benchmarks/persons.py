"""Does it pay to use all images of a person, to crop them, and to mix them?

    python benchmarks/persons.py digits SEEDS
    python benchmarks/persons.py features SEEDS CIFAR10.npz

Persons are made from public images, each with m of them, of random classes or of one class.
`digits` trains `cnn-small` from scratch on 250 persons; `features` trains a head on features of
EfficientNet-Lite0, for 8,000 images of CIFAR-10. Every row has the same persons, N, noise,
steps and, but for the controls, number of views, and the rate of the default rule. Delta is 1e-5.
"""

import math
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import torch

from dpmix.data.named import load_splits
from dpmix.data.persons import Persons
from dpmix.data.source import Subset, TensorSource
from dpmix.models.backbones import load_backbone
from dpmix.models.head import LinearHead
from dpmix.privacy.plan import PrivacyPlan
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.runs.fit import train_run
from dpmix.training.cached_views import CachedViews
from dpmix.training.ema import Ema
from dpmix.training.passes import Passes
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewSpec

PERSONS, EPSILONS = 250, (3.0, 8.0)
ROWS = {
    "one image, self-aug": ("self-aug", {"k_base": 8}, True),
    "all images, none": ("none", {}, False),
    "all images, self-aug": ("self-aug", {"k_base": 8}, False),
    "all images, mix-self": ("mix-self", {"k_base": 4, "k_self": 4}, False),
    "all images, mix-self, alpha 1 (control)": (
        "mix-self", {"k_base": 4, "k_self": 4, "mixup_alpha": 1.0}, False,
    ),
    "4 of the images, self-aug (control)": ("self-aug", {"k_base": 4}, False),
    "all images, mix-self 8+8 (control)": ("mix-self", {"k_base": 8, "k_self": 8}, False),
}  # fmt: skip


def assigned(labels: np.ndarray, persons: int, m: int, kind: str) -> list[list[int]]:
    """The places of each person's images."""
    rng = np.random.default_rng(0)
    if kind == "random classes":
        order = rng.permutation(len(labels))[: persons * m]
        return order.reshape(persons, m).tolist()
    made, left = [], [rng.permutation(np.flatnonzero(labels == c)) for c in range(10)]
    for _ in range(persons):
        chosen = rng.choice([c for c in range(10) if len(left[c]) >= m])
        made.append(left[chosen][:m].tolist())
        left[chosen] = left[chosen][m:]
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


def accuracy(data: Path, method: str, views: dict, epsilon: float, seed: int) -> float:
    """Train once, and return the accuracy on the test images in %."""
    config = Config.load(
        data=str(data), method=method, epsilon=epsilon, seed=seed, delta=1e-5, crop_padding=1,
        model="cnn-small", flip=False, output=str(data.parent / "run"), overwrite=True,
        eval_every=10**6, **views,
    )  # fmt: skip
    return 100 * train_run(build_run(config)).evaluation.accuracy


def digits(seeds: range) -> None:
    """From scratch."""
    splits = load_splits("mnist5k")
    cells = [(8, "random classes"), (8, "one class"), (2, "random classes"), (16, "random classes")]
    with tempfile.TemporaryDirectory() as temporary:
        path, single = Path(temporary) / "persons.npz", Path(temporary) / "single.npz"
        for m, of in cells:
            places = assigned(splits.train.labels.numpy(), PERSONS, m, of)
            saved(splits, places, path)
            saved(splits, [own[:1] for own in places], single)
            for epsilon, (row, (method, views, one)) in product(EPSILONS, ROWS.items()):
                if "control" in row and (m, of) != cells[0]:
                    continue
                found = [
                    accuracy(single if one else path, method, views, epsilon, seed)
                    for seed in seeds
                ]
                show(m, of, epsilon, row, found)


def features(seeds: range, data: str) -> None:
    """A head on features of the images themselves, in persons of 1 to 32 images."""
    cpu = torch.device("cpu")
    backbone = load_backbone("efficientnet-lite0", cpu)
    splits = load_splits(data, train_images=10_000)
    sides = (splits.train, Subset.of(splits.test, torch.arange(4000)))
    passes = Passes(backbone.module, sides[0].image_shape, cpu, 1)
    train, test = (
        torch.cat([
            passes.embed(backbone.normalization(side.images(some)))
            for some in torch.arange(len(side)).split(64)
        ])
        for side in sides
    )  # fmt: skip
    for m, of, epsilon in product((2, 4, 8, 16, 32), ("random classes", "one class"), (1, 3, 8)):
        persons = 8_000 // m  # leaves some of each class where persons have one
        places = torch.tensor(assigned(splits.train.labels.numpy(), persons, m, of))
        plan = PrivacyPlan.calibrate(
            n=persons, expected_batch_size=persons, steps=50, epsilon=epsilon, delta=1e-5,
            unit="person",
        )  # fmt: skip
        for row, own in (("one image", places[:, :1]), ("all images", places)):
            found = [
                100 * head_accuracy(train[own], splits.train.labels[own], plan, seed, test,
                                    sides[1].labels) for seed in seeds
            ]  # fmt: skip
            show(m, of, epsilon, row, found)


def head_accuracy(
    rows: torch.Tensor, labels: torch.Tensor, plan: PrivacyPlan, seed: int, test: torch.Tensor,
    answers: torch.Tensor,
) -> float:  # fmt: skip
    """Train a head on persons' features [P, m, D] at the rate of the default rule."""
    (persons, m), classes = labels.shape, int(labels.max()) + 1
    head = LinearHead(rows.shape[2], classes, "unit", 10.0)
    rate = min(64.0, 0.2 * persons / (plan.noise_std * math.sqrt(plan.steps))) / 10
    owner = torch.arange(persons).repeat_interleave(m)
    people = Persons(owner, tuple(map(str, range(persons))))
    names = tuple(map(str, range(classes)))
    blank = torch.zeros(persons * m, 1, 1, 1, dtype=torch.uint8)
    data = TensorSource(blank, labels.flatten(), names, persons=people)
    spec = ViewSpec("none", images_per_person=m)
    soft = torch.nn.functional.one_hot(labels, classes).float()
    views = CachedViews(spec, spec, classes, rows, soft, labels.flatten(), people)
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    trainer = PrivateTrainer(head, data, plan=plan, views=views, optimizer=optimizer, seed=seed)
    average = Ema(head, 0.99)
    for _ in range(plan.steps):
        trainer.step()
        average.update()
    head.load_state_dict(average.weights())
    with torch.inference_mode():
        return float((head(test).argmax(1) == answers).float().mean())


def show(m: int, of: str, epsilon: float, row: str, found: list[float]) -> None:
    """Print one line of the table."""
    spread = statistics.stdev(found) if len(found) > 1 else math.nan
    mean = statistics.mean(found)
    print(f"| {m} | {of} | {epsilon:g} | {row} | {mean:.1f} ± {spread:.1f} |", flush=True)


def main() -> None:
    """Print one line for each cell, row and epsilon."""
    torch.set_num_threads(1)
    kind, seeds = sys.argv[1], range(int(sys.argv[2]))
    if kind == "digits":
        digits(seeds)
    else:
        features(seeds, sys.argv[3])


if __name__ == "__main__":
    main()
