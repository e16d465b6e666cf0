"""What `import dpmix` does, and what it leaves for later."""

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
dpmix.fit
"""

NAMES = """
import sys
import dpmix
assert "torch" not in sys.modules
assert all(getattr(dpmix, name).__name__ == name for name in dpmix.__all__)
assert not hasattr(dpmix, "absent")
"""


def test_how_long_threads_spin_is_set_before_torch_is_imported():
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    others = {name: value for name, value in os.environ.items() if name not in ours}
    ran = subprocess.run(
        [sys.executable, "-c", AT_TORCH], env=others, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "2000"


def test_every_public_name_loads_and_the_import_alone_loads_no_torch():
    ran = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
