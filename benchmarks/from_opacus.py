"""The same training by opacus and by dpmix, on the built-in digits: accuracy, epsilon and time.

One model, batch, number of steps, rate and epsilon; opacus without augmentation, which is all that
it has, and dpmix without, with Self-Aug and with DP-Mix_Self. The two loops are those of
docs/from-opacus.md.

    pip install -e '.[bench]'
    python benchmarks/from_opacus.py --seeds 0 1 2
"""

import argparse
import statistics
import time
import warnings

import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dpmix
from dpmix.data import load_splits

EPSILON, DELTA, BATCH, STEPS, RATE = 3.0, 1e-5, 400, 50, 0.6
VIEWS = {
    "none": dpmix.ViewSpec("none"),
    "self-aug, 8 views": dpmix.ViewSpec("self-aug", k_base=8, crop_padding=1, flip=False),
    "mix-self, 4 + 4 views": dpmix.ViewSpec(
        "mix-self", k_base=4, k_self=4, crop_padding=1, flip=False
    ),
}


def network() -> nn.Module:
    """A small network that both can take."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(), nn.GroupNorm(4, 16),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.GroupNorm(4, 32),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def by_opacus(model: nn.Module, train: TensorDataset) -> float:
    """Train; return the epsilon that opacus states."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    loader = DataLoader(train, batch_size=BATCH)
    engine = PrivacyEngine(accountant="prv")
    model, optimizer, loader = engine.make_private_with_epsilon(
        module=model, optimizer=optimizer, data_loader=loader, target_epsilon=EPSILON,
        target_delta=DELTA, epochs=STEPS // len(loader), max_grad_norm=1.0,
    )  # fmt: skip
    for _ in range(STEPS // len(loader)):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return engine.get_epsilon(DELTA)


def by_dpmix(model: nn.Module, train, views: dpmix.ViewSpec, seed: int) -> float:
    """Train; return the epsilon that dpmix states."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    plan = dpmix.PrivacyPlan.calibrate(
        n=len(train), expected_batch_size=BATCH, steps=STEPS, epsilon=EPSILON, delta=DELTA
    )
    trainer = dpmix.make_private(model, optimizer, train, plan=plan, views=views, seed=seed)
    for _ in range(plan.steps):
        trainer.step()
    return plan.epsilon_after(trainer.steps_done)


def pixels(source) -> TensorDataset:
    """As opacus takes them: floats in [-1, 1]."""
    images = source.images(torch.arange(len(source)))
    return TensorDataset(images / 127.5 - 1, source.labels)


def accuracy(model: nn.Module, test: TensorDataset) -> float:
    """Of the test images."""
    images, labels = test.tensors
    with torch.no_grad():
        return (model.eval()(images).argmax(dim=1) == labels).float().mean().item()


def main() -> None:
    """Measure every way on every seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    splits = load_splits("mnist5k")
    train, test = pixels(splits.train), pixels(splits.test)
    print("| | accuracy | epsilon | s |\n|---|---|---|---|")
    for name in ("opacus", *VIEWS):
        scores, seconds, epsilon = [], [], 0.0
        for seed in chosen.seeds:
            torch.manual_seed(seed)
            model = network()
            start = time.perf_counter()
            if name == "opacus":
                epsilon = by_opacus(model, train)
            else:
                epsilon = by_dpmix(model, splits.train, VIEWS[name], seed)
            seconds.append(time.perf_counter() - start)
            scores.append(100 * accuracy(model, test))
        spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        said = f"{statistics.mean(scores):.1f} ± {spread:.1f}"
        print(f"| {name} | {said} | {epsilon:.3f} | {statistics.median(seconds):.0f} |", flush=True)


if __name__ == "__main__":
    main()
