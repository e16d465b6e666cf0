"""A folder that the user may not write to: said in a line, though the tests may run as root."""

import os
import shutil
import subprocess
import sys

import pytest

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
# Root without the right to pass over permissions.
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if ROOT else []

pytestmark = pytest.mark.skipif(
    ROOT and shutil.which("setpriv") is None, reason="root may write anywhere, without setpriv"
)


@pytest.fixture
def read_only(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def in_folder(folder, *arguments):
    command = [*BOUND, sys.executable, "-m", "dpmix", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd=folder,
        env=environment,
    )  # fmt: skip


def test_a_run_needs_a_folder_that_it_may_write_to(read_only):
    made = in_folder(read_only, "train", "--steps", 1, "--expected-batch-size", 8)
    assert made.returncode == 2
    assert "error: cannot make run folder 'runs/" in made.stderr
    assert "Permission denied; give another --output" in made.stderr
    assert "Traceback" not in made.stderr and list(read_only.iterdir()) == []


def test_a_sweep_needs_one_too(read_only):
    (read_only.parent / "sweep.yaml").write_text("title: t\ngrid: {epsilon: [1]}\n")
    made = in_folder(read_only, "sweep", "../sweep.yaml")
    assert made.returncode == 2
    assert "error: cannot make sweep folder 'runs/sweeps/sweep'" in made.stderr
