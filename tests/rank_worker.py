"""One of several processes that train together, started by torchrun from `test_distributed.py`."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import dpmix.training.trainer as step_module
from dpmix import PrivacyPlan, PrivateTrainer, ViewBuilder, ViewSpec
from dpmix.data import TensorSource, normalization
from dpmix.data.source import Subset
from dpmix.errors import DpmixError
from dpmix.training.distributed import Ranks, shutdown, start

N, STEPS, SEED = 13, 4, 11
RATE = 0.25


def data():
    """Thirteen examples of noise."""
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (N, 1, 6, 6), dtype=np.uint8))
    return TensorSource(pixels, torch.from_numpy(rng.integers(0, 3, N)), ("a", "b", "c"))


def plan():
    """Few enough draws that a rank's batch is empty now and then."""
    return PrivacyPlan(
        sampling_rate=RATE, denominator=RATE * N, steps=STEPS, noise_multiplier=0.7,
        max_grad_norm=0.5, delta=1e-3, sensitivity_multiplier=1, target_epsilon=9.0, n=N,
    )  # fmt: skip


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 3))


def views():
    spec = ViewSpec("mix-self", k_base=2, k_self=2, crop_padding=1)
    return ViewBuilder(spec, 3, normalization("half", 1))


def trainer(source, ranks, seed=SEED, model_seed=0):
    network = model(model_seed)
    return PrivateTrainer(
        network, source, plan=plan(), views=views(), seed=seed, ranks=ranks,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9),
    )  # fmt: skip


def main(folder: Path) -> None:
    """Train in every mode in turn; leave what each ended with."""
    step_module.STEPS_BETWEEN_COMPARISONS = 2
    ranks = start()
    for mode in ("seeded", "unseeded", "diverge", "mixed up"):
        torch.save(ended(mode, ranks), folder / f"{mode}-{ranks.rank}.pt")
    dist.barrier()
    shutdown()
    sys.stderr.flush()
    # The interpreter's own end can abort in gloo's threads, seldom, on a busy machine.
    os._exit(0)


def ended(mode: str, ranks: Ranks) -> dict[str, Any]:
    if mode == "mixed up":
        return {"error": refused(ranks)}
    # Ranks begin with other weights: rank 0's are to be shared.
    run = trainer(
        Subset.of(data(), torch.arange(*ranks.bounds(N))),
        ranks,
        seed=None if mode == "unseeded" else SEED,
        model_seed=ranks.rank,
    )
    drawn, error_text = [], ""
    try:
        for step in range(STEPS):
            drawn.append(run.step().drawn)
            if mode == "diverge" and ranks.rank == 1 and step == 1:
                with torch.no_grad():
                    run.parameters[0].view(-1)[0] += 1e-7
    except DpmixError as error:
        error_text = str(error)
    return {"weights": run.model.state_dict(), "drawn": drawn, "error": error_text}


def refused(ranks: Ranks) -> str:
    """What every rank says where one clips otherwise than the noise is made for."""
    own = replace(plan(), max_grad_norm=0.5 + ranks.rank)
    network = model()
    try:
        PrivateTrainer(
            network, data(), plan=own, views=views(), ranks=ranks,
            optimizer=torch.optim.SGD(network.parameters(), lr=0.5),
        )  # fmt: skip
    except DpmixError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
