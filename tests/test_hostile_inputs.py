"""Every bad input is refused in a line or two, soon, in little memory, and nothing of it is run."""

import resource
import time

import pytest

from dpmix.errors import DpmixError
from hostile_inputs import CASES, EXECUTED

SECONDS, KIBIBYTES = 20, 600 * 1024


def test_the_corpus_is_large_enough():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(name, tmp_path, unchecked, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = CASES[name](tmp_path)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(DpmixError) as refused:
        call()
    assert time.perf_counter() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIBIBYTES
    assert not list(tmp_path.rglob(EXECUTED))
    message = str(refused.value)
    assert message.count("\n") <= 1 and len(message) < 1500
    assert "\x1b" not in message
