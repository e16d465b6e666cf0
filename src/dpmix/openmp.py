"""On import: threads that wait for each other sleep soon, so that busy cores are not fatal.

GNU OpenMP, which PyTorch's Linux builds use, lets a thread spin for milliseconds at the end of
every operation. Where other work has the core of the thread that it waits for, most time goes so:
beside two other jobs on two cores the demo took 602 s, and takes 42 s with this; on free ones it
took 26 s and takes 27 s. The number is read once, when torch is first imported.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
