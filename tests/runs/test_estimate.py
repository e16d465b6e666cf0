"""What a dry run says of another engine."""

import pytest

from dpmix.runs import estimate
from dpmix.runs.config import Config
from dpmix.runs.fit import smoke_run
from dpmix.training.distributed import ALONE


def engine_row(monkeypatch, seconds, **settings):
    config = Config.load(None, data="mnist5k", epsilon=3, model="cnn-small", **settings)
    monkeypatch.setattr(
        estimate, "seconds_per_step", lambda run, engine: seconds.get(engine.name, 6.0)
    )
    with smoke_run(config, ALONE) as run:
        return dict(estimate.estimate_rows(run))["engine"]


@pytest.mark.parametrize(("seconds", "said"), [
    (3.0, "--engine bookkeeping, which adds in float32, is 2.0 times as fast"), (5.9, None),
])  # fmt: skip
def test_bookkeeping_is_named_where_it_is_faster(monkeypatch, seconds, said):
    row = engine_row(monkeypatch, {"bookkeeping": seconds}, method="none")
    assert row.endswith(said) if said else "bookkeeping" not in row


def test_it_is_not_named_where_it_was_asked_for(monkeypatch):
    row = engine_row(monkeypatch, {"bookkeeping": 1.0}, method="none", engine="bookkeeping")
    assert row == "bookkeeping: as requested"
