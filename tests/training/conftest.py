"""A disk that is full."""

import resource
import signal

import pytest


@pytest.fixture
def no_space():
    """No file of this process may grow beyond 4 KiB: the kernel's own way to fill a disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)
