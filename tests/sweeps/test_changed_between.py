"""Runs that share their settings, and something else that changed between them."""

import warnings
from dataclasses import replace

import pytest

from dpmix.pool.load import PoolFacts
from dpmix.runs.folder import RunFolder
from dpmix.sweeps.grid import Cell
from dpmix.sweeps.run import warn_if_inputs_changed
from example_facts import DIGEST, write_run

OTHER = DIGEST[::-1]
POOL = PoolFacts("images", 40, DIGEST, "bb", "painter", "openrail")


def run(root, seed, *, images="a b", pool=None, given=(), **chosen):
    """A run of one row, on `images`, with `chosen` by the defaults."""
    named = {"method": "mix-diff"} if pool else {}
    folder = RunFolder(write_run(root, pool=pool, seed=seed, **named, **dict(given), **chosen))
    folder.diagnostics.mkdir()
    folder.data_hash.write_text(images)
    named |= {"pool": "images"} if pool else {}
    return Cell("row", {"seed": seed}, {"seed": seed, **named, **dict(given)}, None)


def told(tmp_path, *others):
    """What is said of a run and of another of the same settings."""
    cells = [run(tmp_path / str(seed), seed, **other) for seed, other in enumerate(others)]
    roots = {cell.name: tmp_path / str(seed) for seed, cell in enumerate(cells)}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_if_inputs_changed(tuple(cells), roots)
    return [str(one.message) for one in said]


def test_runs_that_differ_in_seeds_alone_are_fine(tmp_path):
    assert told(tmp_path, {}, {}) == []


def test_runs_that_differ_in_what_was_given_are_fine(tmp_path):
    fewer = {"images": "c b", "given": (("train_images", 9),)}
    assert told(tmp_path, {}, fewer, {"given": (("steps", 7),)}) == []


@pytest.mark.parametrize(("first", "second", "changed"), [
    ({}, {"images": "c b"}, "the images changed"),
    ({}, {"images": "c d", "given": (("train_images", 9),)}, "the images changed"),
    ({"pool": POOL}, {"pool": replace(POOL, contents_sha256=OTHER)}, "the public pool changed"),
    ({}, {"expected_batch_size": 10}, "chose it"),
])  # fmt: skip
def test_what_changed_is_told(tmp_path, first, second, changed):
    (said,) = told(tmp_path, first, second)
    assert changed in said and "give another --output" in said
