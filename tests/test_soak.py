"""Long runs hold no more memory at their end than after they warmed up."""

import json
import os
from pathlib import Path

import pytest

import dpmix

STEPS, WARM = 2000, 400


def resident() -> float:
    """MiB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("engine", ["examplewise", "vectorized"])
def test_two_thousand_steps_hold_flat_memory(image_root, tmp_path, quick, engine):
    held = []
    result = dpmix.fit(
        **quick | {"steps": STEPS, "engine": engine, "device": "cpu", "optimizer": "Adam",
                   "learning_rate": 0.001, "tensorboard": True},
        data=str(image_root), output=str(tmp_path / "run"), checkpoint_every=50, eval_every=100,
        report=lambda now: held.append(resident()),
    )  # fmt: skip
    early, late = max(held[WARM : WARM + 200]), max(held[-200:])
    assert late - early < 16, f"{early:.0f} MiB, then {late:.0f} MiB"
    log = (result.folder / "diagnostics" / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, STEPS + 1))
