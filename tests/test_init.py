"""What `import dpmix` does before torch is there."""

import os
import subprocess
import sys

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


def test_how_long_threads_spin_is_set_before_torch_is_imported():
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    others = {name: value for name, value in os.environ.items() if name not in ours}
    ran = subprocess.run(
        [sys.executable, "-c", AT_TORCH], env=others, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "2000"
