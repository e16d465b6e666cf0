"""Long runs hold no more memory at their end than after they warmed up."""

import json
import os
from pathlib import Path

import pytest

import dpmix

STEPS, EVERY = 2000, 200
# An evaluation's accounting makes large arrays for a moment, and the heap stays larger for it: by
# less and less, over sixty evaluations by 45 MiB in all.
MOST, MOST_BETWEEN = 48, 4


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
        data=str(image_root), output=str(tmp_path / "run"), checkpoint_every=50, eval_every=EVERY,
        report=lambda now: held.append(resident()),
    )  # fmt: skip
    stretches = [held[start + 20 : start + EVERY - 1] for start in range(EVERY, STEPS, EVERY)]
    for stretch in stretches:
        assert stretch[-1] - stretch[0] < MOST_BETWEEN, [round(s[0]) for s in stretches]
    assert stretches[-1][-1] - stretches[0][0] < MOST, [round(s[0]) for s in stretches]
    log = (result.folder / "diagnostics" / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, STEPS + 1))
