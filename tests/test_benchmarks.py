"""The script for a GPU runs to its end on a CPU, so that it does when one is lent."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"


def test_the_script_for_a_gpu_prints_one_table_and_writes_json(tmp_path):
    done = subprocess.run(
        ["bash", SCRIPT, tmp_path, "cpu", "--mini"],
        env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left_out"] == []
    failed = [row for row in found["rows"] if row["seconds"] is None]
    assert not failed
    for what in ("cnn-small, K = 2, float32", "a small vit, K = 2, bfloat16", "embedding", "noise"):
        assert any(row["what"].startswith(what) for row in found["rows"])
        assert what in (tmp_path / "gpu.md").read_text()
