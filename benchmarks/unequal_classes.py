"""What to do about unequal classes: weights, sampling, fewer images, or another threshold?

    python benchmarks/unequal_classes.py CIFAR10.npz SEEDS FEATURES.pt

A head on frozen features of EfficientNet-Lite0, full batch, 50 steps, delta 1e-5, the rate of the
default rule, on 10,000 images of CIFAR-10: in two groups of four classes, and in ten classes with a
long tail. `logit adjustment` subtracts the logarithms of the prevalences from the logits of `none`
(Menon et al. 2021, arXiv 2007.07314). `weights above the clip` scales the loss. `subsampling`
leaves out images of all classes but the rarest. `weights, paid` counts the classes with noise, for
epsilon 0.05 of the epsilon of its row; the other weights are those of the prevalences, as they are,
or raised where small, as `dpmix train` does. FEATURES.pt holds the features; first use makes it.
Accuracy is at the prevalences of the training images; there are 4,000 test images. In %.
"""

import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_auroc

from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.clipping.types import ClippedSum, zero_sum
from dpmix.data.named import load_splits
from dpmix.data.source import TensorSource, class_shares
from dpmix.models.backbones import load_backbone
from dpmix.models.head import LinearHead
from dpmix.privacy import balance
from dpmix.privacy.accounting import calibrate_sigma
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Randomness
from dpmix.privacy.sampling import PoissonSampler
from dpmix.training.cached_views import CachedViews
from dpmix.training.ema import Ema
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewSpec

MOST, SPEND, DELTA, STEPS, EPSILONS = 3900, 0.05, 1e-5, 50, (1.0, 3.0, 8.0)
COMMON, RARE = (2, 3, 4, 6), (1, 5, 7, 9)  # bird, cat, deer, frog; automobile, dog, horse, truck
Counts = dict[tuple[int, ...], int]  # classes of CIFAR-10 that make one class -> training images
TASKS: dict[str, Counts] = {
    "1:1": {COMMON: MOST, RARE: MOST}, "1:3": {COMMON: MOST, RARE: MOST // 3},
    "1:9": {COMMON: MOST, RARE: MOST // 9}, "1:50": {COMMON: MOST, RARE: MOST // 50},
    "10 classes, 900 to 18": {(c,): round(900 * 0.02 ** (c / 9)) for c in range(10)},
}  # fmt: skip


@dataclass
class Task:
    """Features and labels of the training and the test images."""

    x: Tensor
    y: Tensor
    test: Tensor
    answers: Tensor

    @property
    def prevalences(self) -> tuple[float, ...]:
        """The classes' shares of the training images."""
        counts = torch.bincount(self.y).double()
        return tuple((counts / counts.sum()).tolist())


def embedded(data: str, path: Path) -> dict[str, Tensor]:
    """The features of 10,000 training and 4,000 test images, drawn at random."""
    if not path.exists():
        backbone = load_backbone("efficientnet-lite0", torch.device("cpu"))
        splits, found = load_splits(data), {}
        for name, source, count in (("train", splits.train, 10_000), ("test", splits.test, 4000)):
            rows = torch.from_numpy(np.random.default_rng(0).permutation(len(source))[:count])
            found[f"{name}_y"] = source.labels[rows]
            with torch.inference_mode():
                found[name] = torch.cat([
                    backbone.module(backbone.normalization(source.images(some)))
                    for some in rows.split(8)
                ])  # fmt: skip
        torch.save(found, path)
    return torch.load(path, weights_only=True)


def task(found: dict[str, Tensor], counts: Counts) -> Task:
    """The first images of each class; labels follow the order of `counts`."""
    parts = []
    for label, (originals, count) in enumerate(counts.items()):
        for side in ("train", "test"):
            own = found[side][torch.isin(found[f"{side}_y"], torch.tensor(originals))]
            own = own[: count if side == "train" else None]
            parts.append((own, torch.full((len(own),), label)))
    x, y = zip(*parts, strict=True)
    return Task(*(torch.cat(one) for one in (x[::2], y[::2], x[1::2], y[1::2])))


def train(of: Task, epsilon: float, seed: int, how="none", prevalences=None, prior=()) -> nn.Module:
    """Train a head, at the rate of the default rule."""
    count, prevalences = len(of.y), prevalences or of.prevalences
    plan = PrivacyPlan.calibrate(
        n=count, expected_batch_size=count, steps=STEPS, epsilon=epsilon, delta=DELTA,
        prior_releases=prior,
    )  # fmt: skip
    names = tuple(map(str, range(len(of.prevalences))))
    data = TensorSource(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), of.y, names)
    more, weights = {}, balance.unit_weights(class_shares(data, "image"), prevalences)
    if how != "none":
        plan = replace(plan, denominator=count * balance.mean_weight(prevalences))
    if how == "weights":
        more = {"weights": weights}
    elif how == "sampling":
        more = {"sampler": PoissonSampler(plan, count, weights)}
    elif how == "above":
        more = {"clipped_sum": above_the_clip(balance.class_weights(prevalences))}
    head, spec = LinearHead(of.x.shape[1], len(of.prevalences), "unit", 10.0), ViewSpec("none")
    rate = min(64.0, 0.2 * plan.denominator / (plan.noise_std * math.sqrt(STEPS))) / 10
    views = CachedViews(spec, spec, len(of.prevalences), of.x[:, None], None, of.y)
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    more |= {"plan": plan, "views": views, "optimizer": optimizer, "seed": seed}
    trainer = PrivateTrainer(head, data, **more)
    average = Ema(head, 0.99)
    for _ in range(STEPS):
        trainer.step()
        average.update()
    head.load_state_dict(average.weights())
    return head


def above_the_clip(weights: tuple[float, ...]):
    """A sum of clip(w g), which is w times g clipped to C / w."""

    def clip(trainer: PrivateTrainer, examples: Tensor, draws) -> ClippedSum:
        made = trainer.views.sample(trainer.data, examples, draws.views, trainer.device)
        labels, total, parts = trainer.data.labels[examples], zero_sum(trainer.parameters), []
        for label, weight in enumerate(weights):
            own, bound = labels == label, trainer.plan.max_grad_norm / weight
            parts.append(clipped_gradient_sum(
                trainer.model, trainer.loss, made.views[own], made.labels[own], bound
            ))  # fmt: skip
            torch._foreach_add_(total, parts[-1].gradients, alpha=weight)
        norms, losses = (torch.cat([getattr(p, n) for p in parts]) for n in ("norms", "losses"))
        return ClippedSum(total, norms, losses, "above the clip")

    return clip


def rows(found: dict[str, Tensor], counts: Counts, epsilon: float, seed: int) -> Iterator:
    """Name and figures of every row."""
    of = task(found, counts)
    fewer = task(found, dict.fromkeys(counts, min(counts.values())))
    none = train(of, epsilon, seed)
    yield "none", figures(none, of)
    yield "logit adjustment", figures(none, of, torch.tensor(of.prevalences).log())
    yield "weights above the clip", figures(train(of, epsilon, seed, "above"), of)
    yield "weights", figures(train(of, epsilon, seed, "weights"), of)
    least = 20 * len(counts) / (epsilon * len(of.y))  # the rule of runs/balance.py
    if least > min(of.prevalences):
        raised = [max(share, least) for share in of.prevalences]
        raised = [share / sum(raised) for share in raised]
        yield "weights, raised", figures(train(of, epsilon, seed, "weights", raised), of)
    yield "sampling", figures(train(of, epsilon, seed, "sampling"), of)
    yield "subsampling", figures(train(fewer, epsilon, seed), of)
    sigma, noise = calibrate_sigma(1.0, 1, SPEND, DELTA), Randomness(seed).count
    shares = nn.functional.one_hot(of.y, len(of.prevalences)).double()
    paid = balance.release_prevalences(shares, sigma, noise)
    yield "weights, paid", figures(train(of, epsilon, seed, "weights", paid, (sigma,)), of)


def figures(head: nn.Module, of: Task, less: Tensor | float = 0.0) -> list[float]:
    """AUROC (mean over classes), balanced accuracy, worst class and accuracy, in %."""
    with torch.inference_mode():
        scores = head(of.test) - less
    right = (scores.argmax(1) == of.answers).double()
    each = torch.stack([right[of.answers == label].mean() for label in range(len(of.prevalences))])
    area = multiclass_auroc(scores.softmax(1), of.answers, num_classes=len(of.prevalences))
    accuracy = each @ torch.tensor(of.prevalences, dtype=torch.float64)
    return [100 * float(one) for one in (area, each.mean(), each.min(), accuracy)]


def main(data: str, seeds: str, features: str) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    found = embedded(data, Path(features))
    print("| classes | epsilon | | AUROC | balanced accuracy | worst class | accuracy |")
    print("|---|---|---|---|---|---|---|")
    for (name, counts), epsilon in ((t, e) for t in TASKS.items() for e in EPSILONS):
        table: dict[str, list[list[float]]] = {}
        for seed in range(int(seeds)):
            for row, values in rows(found, counts, epsilon, seed):
                table.setdefault(row, []).append(values)
        for row, all_seeds in table.items():
            cells = [
                f"{statistics.mean(of):.1f} ± {statistics.stdev(of):.1f}"
                for of in zip(*all_seeds, strict=True)
            ]
            print(f"| {name} | {epsilon:g} | {row} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
