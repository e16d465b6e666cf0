"""How long threads spin is set before torch is there to read it, unless the user has a say."""

import os
import subprocess
import sys

import pytest

AT_TORCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            sys.exit()
sys.meta_path.insert(0, Watch())
import dpmix
"""


@pytest.mark.parametrize(
    ("given", "left"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_it_is_set_before_torch_is_imported_and_the_users_own_stays(given, left):
    others = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    ran = subprocess.run(
        [sys.executable, "-c", AT_TORCH],
        env=others | given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == left
