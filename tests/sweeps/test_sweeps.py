"""Every sweep that comes along can be read and meant, in full and at the scale of a laptop."""

import re
from pathlib import Path

import pytest

from dpmix.errors import DpmixError
from dpmix.runs.defaults import choose_model
from dpmix.sweeps.grid import load_sweep, sweep_names, sweep_path


@pytest.mark.parametrize("scale", [None, "cpu"])
@pytest.mark.parametrize("name", sweep_names())
def test_a_sweep_holds_runs_that_can_be_meant(name, scale):
    cells = load_sweep(sweep_path(name), scale).cells
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names)) >= 10
    assert {cell.config.run.seed for cell in cells} >= {0, 1, 2, 3, 4}


def test_equal_views_compares_what_its_title_says():
    for scale in (None, "cpu"):
        cells = load_sweep(sweep_path("equal-views"), scale).cells
        views = {cell.row: choose_model(cell.config).view_spec(flip=True).views for cell in cells}
        # All but the fewest self-augmentations, and the average of mixtures alone.
        largest = max(views.values())
        assert list(views.values()).count(largest) == 3


def test_the_example_of_the_docs_can_be_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    page = (Path(__file__).parents[2] / "docs/sweeps.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)
    sweep = load_sweep(tmp_path / "mine.yaml")
    assert (len(sweep.tries), len(sweep.cells)) == (3 * 2 * 3, 3 * 2 * 5)
    assert len(load_sweep(tmp_path / "mine.yaml", "small").cells) == 3 * 2


def test_an_unknown_name_is_told():
    with pytest.raises(DpmixError, match="no sweep 'equal-view': did you mean 'equal-views'"):
        sweep_path("equal-view")
