"""Views a second that a head is trained on from the feature cache, by K.

    python benchmarks/head_speed.py

50,000 examples of 36 views of 1,280 numbers (float16, mapped from a temporary file of 4.6 GB, which
then lies in the file cache), 10 classes, expected batch 1,000: the paper's fine-tuning. Whole
private steps are timed: draw, gather, clip, sum, noise, update. The median of some steps; the time
of 10 epochs follows from it.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dpmix.data import TensorSource
from dpmix.models.head import LinearHead
from dpmix.privacy.plan import PrivacyPlan
from dpmix.training.cached_views import CachedViews
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewSpec

N, M, D, L, BATCH = 50_000, 36, 1280, 10, 1000
STEPS = 15
SPECS = {
    1: (ViewSpec("self-aug", k_base=1), ViewSpec("self-aug", k_base=M)),
    16: (ViewSpec("self-aug", k_base=16), ViewSpec("self-aug", k_base=M)),
    34: (ViewSpec("mix-self"), ViewSpec("mix-self", k_base=17, k_self=19)),
    36: (ViewSpec("self-aug", k_base=M), ViewSpec("self-aug", k_base=M)),
}


def features(folder: str) -> torch.Tensor:
    """Random rows in a file; the same block many times, since their values cost nothing."""
    path = Path(folder) / "features.bin"
    block = np.random.default_rng(0).random((500, M, D), dtype=np.float32).astype(np.float16)
    with path.open("wb") as file:
        for _ in range(N // len(block)):
            file.write(block.tobytes())
    return torch.from_numpy(np.memmap(path, np.float16, mode="c", shape=(N, M, D)))


def main() -> None:
    """Print one row a K."""
    labels = torch.arange(N) % L
    data = TensorSource(torch.zeros(N, 1, 1, 1, dtype=torch.uint8), labels, tuple("abcdefghij"))
    plan = PrivacyPlan.calibrate(n=N, expected_batch_size=BATCH, epochs=10, epsilon=3, delta=1e-5)
    print("| K | norm | ms a step | views a second | 10 epochs, s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        mapped = features(folder)
        for views, (spec, cached) in SPECS.items():
            for norm in ("none", "unit"):
                head = LinearHead(D, L, norm)
                source = CachedViews(spec, cached, L, mapped, None, labels)
                optimizer = torch.optim.SGD(head.parameters(), lr=1.0, momentum=0.9)
                trainer = PrivateTrainer(head, data, plan=plan, views=source, optimizer=optimizer)
                times = []
                for _ in range(STEPS):
                    start = time.perf_counter()
                    drawn = trainer.step().drawn
                    times.append((time.perf_counter() - start) / max(1, drawn))
                example = statistics.median(times)
                print(
                    f"| {views} | {norm} | {1000 * BATCH * example:.0f} | {views / example:,.0f} | "
                    f"{plan.steps * BATCH * example:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
