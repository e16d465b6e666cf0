"""A sweep's file: every combination once, checked before anything runs."""

import re
from pathlib import Path

import pytest

from dpmix.errors import DpmixError
from dpmix.runs.settings import places
from dpmix.sweeps.grid import load_sweep, sweep_names, sweep_path

SWEEP = """
title: two methods
settings: {data: mnist5k, steps: 3}
rows:
  none: {method: none}
  mix-self: {method: mix-self, k_self: 4}
grid:
  epsilon: [1, 8]
  seed: [0, 1, 2]
scales:
  small:
    settings: {steps: 1}
    grid: {seed: [0]}
    rows: {mix-self: {method: mix-self}}
"""


def written(tmp_path, text=SWEEP):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return path


def test_every_combination_is_one_run(tmp_path):
    runs = load_sweep(written(tmp_path)).runs
    assert len(runs) == len({run.name for run in runs}) == 2 * 2 * 3
    assert {run.row for run in runs} == {"none", "mix-self"}
    last = runs[-1]
    assert last.swept == {"epsilon": 8, "seed": 2}
    assert last.config.views.k_self == 4 and last.config.privacy.steps == 3


def test_a_scale_replaces_rows_and_merges_the_rest(tmp_path):
    runs = load_sweep(written(tmp_path), "small").runs
    assert [(run.row, run.swept) for run in runs] == [
        ("mix-self", {"epsilon": 1, "seed": 0}), ("mix-self", {"epsilon": 8, "seed": 0}),
    ]  # fmt: skip
    assert runs[0].config.privacy.steps == 1


@pytest.mark.parametrize(("text", "message"), [
    ("titel: t", "titel: .*not permitted"),
    ("title: t\ngrid: {epsilon: [1, 0]}", "epsilon is 0; expected above 0"),
    ("title: t\nsettings: {data: scnas}", "no folder 'scnas' here"),
    ("title: t\nrows: {a: {epsilonn: 1}}", "row 'a'.*did you mean 'epsilon'"),
    ("title: t\nsettings: {expected_runs: 10}", "expected_runs is 10, which only dpmix sweep"),
    ("title: t\ngrid: {output: [x]}", "output is not for a row or a grid"),
    ("title: t\nbase: nothing", "no recipe 'nothing'"),
])  # fmt: skip
def test_a_mistake_is_named_before_anything_runs(tmp_path, text, message):
    with pytest.raises(DpmixError, match=message) as error:
        load_sweep(written(tmp_path, text))
    assert len(str(error.value).splitlines()) == 1


TUNED = (
    SWEEP
    + """
tune: {grid: {learning_rate: [0.5, 1], seed: [100, 101]}, validation_fraction: 0.2}
"""
)


def test_every_row_tries_the_same_values_on_images_held_out(tmp_path):
    sweep = load_sweep(written(tmp_path, TUNED))
    assert sweep.tuned == ("learning_rate",)
    # Two rows, two epsilons; two rates and two seeds of their own.
    assert len(sweep.tries) == 2 * 2 * 2 * 2 and len(sweep.runs) == 2 * 2 * 3
    assert {run.config.run.seed for run in sweep.tries} == {100, 101}
    assert {run.config.data.validation_fraction for run in sweep.tries} == {0.2}
    assert {run.config.data.validation_fraction for run in sweep.runs} == {None}


def test_data_sets_that_the_results_could_not_tell_apart_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    text = "title: t\ngrid: {data: [here, there]}"
    with pytest.raises(DpmixError, match="here, there have one name in the results"):
        load_sweep(written(tmp_path, text))


def test_a_grid_has_no_paths_which_would_be_named_in_the_results(tmp_path):
    where = "grid: {seed: [1]}\ntune: {grid: {%s: [a]}, validation_fraction: 0.2}"
    for name in places("path") - {"data", "output"}:
        with pytest.raises(DpmixError, match=f"{name} is in the grid, whose values the results"):
            load_sweep(written(tmp_path, "title: t\n" + where % name))


def test_what_is_tuned_is_research_with_seeds(tmp_path):
    with pytest.raises(DpmixError, match=r"no epsilon covers that\. For research .* give seed"):
        load_sweep(written(tmp_path, "title: t\n" + TUNED[TUNED.index("tune:") :]))


def test_the_pool_is_for_the_rows_that_read_one(tmp_path):
    text = """
title: t
settings: {pool: images, pool_labels: map.csv, pool_unmapped: leave-out}
rows:
  mixed in: {method: mix-diff}
  not at all: {method: self-aug}
  pretrained on: {method: self-aug, pool_role: pretrain}
"""
    runs = load_sweep(written(tmp_path, text)).runs
    assert [run.config.views.pool for run in runs] == ["images", None, "images"]
    assert [run.config.views.pool_labels for run in runs] == ["map.csv", None, "map.csv"]


@pytest.mark.parametrize("scale", [None, "cpu"])
@pytest.mark.parametrize("name", sweep_names())
def test_a_sweep_of_the_package_can_be_run(name, scale):
    runs = load_sweep(sweep_path(name), scale).runs
    assert len({run.name for run in runs}) == len(runs) >= 10
    assert {run.config.run.seed for run in runs} >= {0, 1, 2, 3, 4}


def test_the_example_of_the_docs_can_be_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    page = (Path(__file__).parents[2] / "docs/sweeps.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)
    sweep = load_sweep(tmp_path / "mine.yaml")
    assert (len(sweep.tries), len(sweep.runs)) == (3 * 2 * 3, 3 * 2 * 5)
    assert len(load_sweep(tmp_path / "mine.yaml", "small").runs) == 3 * 2


def test_only_a_selection_itself_says_that_a_run_is_one_of_it(tmp_path):
    with pytest.raises(DpmixError, match="expected_runs is 10, which only dpmix sweep"):
        load_sweep(written(tmp_path, "title: t\nsettings: {expected_runs: 10}"))


@pytest.mark.parametrize("row", ["[]", "[two.json]"])
def test_a_release_that_the_sweep_counts_is_counted_by_every_row(tmp_path, row):
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text("{}")
    path = written(
        tmp_path,
        f"""
title: t
settings: {{data: mnist5k, prior_releases: [one.json]}}
rows: {{a: {{prior_releases: {row}}}, b: {{}}}}
""",
    )
    for run in load_sweep(path, settings={"prior_releases": "three.json"}).runs:
        assert {"one.json", "three.json"} <= {*run.config.privacy.prior_releases}
