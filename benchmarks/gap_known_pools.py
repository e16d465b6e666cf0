"""What the gap check says of pools whose worth is known, and so where its bounds lie.

The private side is 5,000 training images of CIFAR-10. The pools: its test images as they are, grey,
blurred or inverted, with labels shifted by one class or half of them drawn at random; photos of the
same classes (Tiny-ImageNet, by the mapping file), of other things, and digits. Exact distances
(as between public sets), and the advice under epsilon 0.1 and 1 at delta 1e-6:

    python benchmarks/gap_known_pools.py cifar10.npz tiny_imagenet_32.npz map.csv random-conv
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from dpmix.data import load_splits
from dpmix.data.image import ReadOptions
from dpmix.models.backbones.backbone import Backbone, load_backbone
from dpmix.pool.load import load_pool
from dpmix.pool.pool import PublicPool
from dpmix.pool.score import Budget, compare_features

CPU = torch.device("cpu")
PRIVATE, POOL = 5000, 2000
L = 10


def chosen(count: int, size: int) -> torch.Tensor:
    """Indices of a random subset, always the same."""
    return torch.from_numpy(np.random.default_rng(0).permutation(size)[:count])


def changed_pools(images: torch.Tensor, labels: torch.Tensor) -> dict[str, PublicPool]:
    """CIFAR-10's own test images, and what spoils them."""
    grey = images.float().mean(1, keepdim=True).round().byte().expand(-1, 3, -1, -1)
    small = F.avg_pool2d(images.float(), 4)
    blurred = F.interpolate(small, images.shape[-1], mode="bilinear").round().byte()
    rng = np.random.default_rng(1)
    random = torch.from_numpy(rng.integers(0, L, len(labels)))
    half = torch.where(torch.from_numpy(rng.random(len(labels)) < 0.5), random, labels)
    return {
        "test images": PublicPool(images, labels),
        "half the labels random": PublicPool(images, half),
        "labels shifted by one": PublicPool(images, (labels + 1) % L),
        "grey": PublicPool(grey, labels),
        "blurred 4x4": PublicPool(blurred, labels),
        "inverted": PublicPool(255 - images, labels),
    }


def other_pools(tiny: str, mapping: str, names: tuple[str, ...]) -> dict[str, PublicPool]:
    """Photos of the same classes, of other things, and digits."""
    same = load_pool(
        Path(tiny), names, (3, 32, 32), labels_csv=Path(mapping), unmapped="leave-out",
        options=ReadOptions(),
    ).pool  # fmt: skip
    whole = load_splits(tiny).train
    mapped = Path(mapping).read_text()
    unlike = [i for i, name in enumerate(whole.class_names) if name not in mapped][:: 170 // L][:L]
    index = torch.cat([(whole.labels == label).nonzero().flatten()[:200] for label in unlike])
    digits = load_splits("mnist5k", image_size=32, channels=3).train
    some = chosen(POOL, len(digits))
    return {
        "Tiny-ImageNet, same classes": PublicPool(*same.take(chosen(POOL, len(same)))),
        "Tiny-ImageNet, ten others": PublicPool(
            whole.images(index), torch.arange(L).repeat_interleave(200)
        ),
        "digits": PublicPool(digits.images(some), digits.labels[some]),
    }


Features = tuple[torch.Tensor, torch.Tensor]


def embedded(images: torch.Tensor, labels: torch.Tensor, backbone: Backbone) -> Features:
    """Features and labels; all of it is public here, so batches will do."""
    return torch.cat([backbone.features(batch) for batch in images.split(128)]), labels


def row(name: str, pool: Features, private: Features) -> str:
    """One pool: exact distances and three verdicts."""
    sigmas = [0.0, Budget.of(1.0, 1e-6).sigma, Budget.of(0.1, 1e-6).sigma]
    rng = np.random.default_rng(0)
    exact, *noisy = [compare_features(pool, private, L, sigma, rng) for sigma in sigmas]
    found = exact.found
    verdicts = " | ".join(one.advice.verdict for one in (exact, *noisy))
    numbers = f"{found.class_ratio:.2f} | {found.matched:.0%} | {found.frechet_ratio:.2f}"
    return f"| {name} | {numbers} | {verdicts} |"


def main() -> None:
    """Print the table for one backbone."""
    cifar, tiny, mapping, backbone_name = sys.argv[1:]
    splits = load_splits(cifar)
    index = chosen(PRIVATE, len(splits.train))
    backbone = load_backbone(backbone_name, CPU)
    private = embedded(splits.train.images(index), splits.train.labels[index], backbone)
    test = chosen(POOL, len(splits.test))
    pools = changed_pools(splits.test.images(test), splits.test.labels[test])
    pools |= other_pools(tiny, mapping, splits.train.class_names)
    print(f"{backbone_name}\n| pool | class distance | matched | Frechet | exact | epsilon 1 | "
          "epsilon 0.1 |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name, pool in pools.items():
        print(row(name, embedded(pool.images, pool.labels, backbone), private), flush=True)


if __name__ == "__main__":
    main()
