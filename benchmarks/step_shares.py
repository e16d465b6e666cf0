"""Where the time of a training step goes: reading, views, passes, clipping, noise, the rest.

Runs real training steps of any settings that `dpmix train` takes and times their parts, on the
device that it trains on:

    python benchmarks/step_shares.py model=wrn-16-4 data=cifar10.npz expected_batch_size=16 steps=20
"""

import statistics
import sys
import time
from collections import defaultdict
from unittest.mock import patch

import torch
import yaml

from dpmix.clipping.accumulator import ClippedAccumulator
from dpmix.pool.pool import PublicPool
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.training import trainer as step_module

CLIP = "clip and add"


class Clock:
    """Adds up seconds by name; waits for the device, so that its work is counted where it is."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = defaultdict(float)

    def timed(self, name, function):
        """Return `function`, its time counted under `name`."""

        def call(*args, **kwargs):
            start = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += self.now() - start

        return call

    def now(self) -> float:
        """Seconds, once the device has done all that it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()


def main() -> None:
    """Train, time the parts of every step, print their shares."""
    settings = {k: yaml.safe_load(v) for k, v in (part.split("=", 1) for part in sys.argv[1:])}
    run = build_run(Config.load(**settings))
    trainer = run.trainer()
    clock = Clock(run.device)
    builder, source = type(run.views), type(run.splits.train)
    with (
        patch.object(source, "images", clock.timed("reading", source.images)),
        patch.object(builder, "build", clock.timed("views", builder.build)),
        patch.object(builder, "draw_views", clock.timed("views", builder.draw_views)),
        patch.object(PublicPool, "take", clock.timed("pool draw", PublicPool.take)),
        patch.object(
            step_module,
            "clipped_gradient_sum",
            clock.timed("forward and backward", step_module.clipped_gradient_sum),
        ),
        patch.object(ClippedAccumulator, "add", clock.timed(CLIP, ClippedAccumulator.add)),
        patch.object(trainer._noise, "release", clock.timed("noise", trainer._noise.release)),
        patch.object(run.optimizer, "step", clock.timed("optimizer", run.optimizer.step)),
    ):
        steps, drawn = [], []
        for _ in range(run.plan.steps):
            start = clock.now()
            drawn.append(trainer.step().drawn)
            steps.append(clock.now() - start)
    total = sum(steps)
    # They happen inside the clipped sum and the views.
    clock.seconds["forward and backward"] -= clock.seconds[CLIP]
    clock.seconds["views"] -= clock.seconds["pool draw"]
    views = run.views.spec.views
    print(f"{type(run.model).__name__}, {run.views.spec.method}, {views} views an example, "
          f"{statistics.mean(drawn):.1f} examples a step, {len(steps)} steps, "
          f"{run.device}, {torch.get_num_threads()} threads")  # fmt: skip
    print(f"seconds a step: median {statistics.median(steps):.3f}, mean {total / len(steps):.3f}")
    print("| part | share of the time |\n|---|---|")
    for name, seconds in [*clock.seconds.items(), ("rest", total - sum(clock.seconds.values()))]:
        print(f"| {name} | {seconds / total:.2%} |")


if __name__ == "__main__":
    main()
