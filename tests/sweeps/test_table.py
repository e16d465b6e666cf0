"""Means, deviations and paired tests of a sweep's results, against numbers by hand."""

import math
import statistics

import pandas as pd
import pytest
from scipy.stats import false_discovery_control, ttest_rel

from dpmix.errors import DpmixError
from dpmix.sweeps.table import markdown, read_results, swept, tables

BASE = [0.50, 0.52, 0.54, 0.51]
BETTER = [0.60, 0.62, 0.65, 0.61]
SAME = [0.51, 0.51, 0.55, 0.50]


def rows(accuracies, **fields):
    return [
        {"row": "a", "data": "d", "model": "m", "method": "none", "epsilon": 1.0, "seed": seed}
        | fields
        | {"accuracy": value, "worst_class_accuracy": value / 2, "calibration_error": 0.1}
        for seed, value in enumerate(accuracies)
    ]  # fmt: skip


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.csv"
    made = rows(BASE) + rows(BETTER, row="b") + rows(SAME, row="c") + rows(BETTER, epsilon=8.0)
    pd.DataFrame(made).to_csv(path, index=False)
    return path


def show(path, **choices):
    return tables(read_results(path), **choices)


def entries(table, row):
    """Of one row, in the order of the columns."""
    return [*table[table["row"] == row].itertuples()]


def test_an_entry_is_the_mean_and_deviation_over_seeds(results):
    (table,) = show(results)
    assert set(table["epsilon"]) == {1.0, 8.0} and set(table["title"]) == {"d, m"}
    entry, _ = entries(table, "a")
    assert entry.mean == pytest.approx(statistics.mean(BASE))
    assert entry.std == pytest.approx(statistics.stdev(BASE))
    assert entry.runs == 4 and len(entries(table, "b")) == 1


def test_rows_are_compared_seed_by_seed_and_p_values_adjusted(results):
    (table,) = show(results)
    raw = [ttest_rel(other, BASE).pvalue for other in (BETTER, SAME)]
    (b,), (c,) = entries(table, "b"), entries(table, "c")
    assert [b.p, c.p] == pytest.approx(false_discovery_control(raw))
    assert b.p < 0.05 < c.p and b.difference == pytest.approx(0.1025)
    assert math.isnan(entries(table, "a")[0].p)


SHIFTED = [one + 0.1 for one in BASE]


@pytest.mark.parametrize(("other", "seeds", "difference"), [
    ([*SHIFTED, 0.0], {}, 0.1),  # equal but for rounding; a seed that one side lacks is left out
    (BETTER, {"seed": float("nan")}, float("nan")),  # runs without seeds are not compared
])  # fmt: skip
def test_what_has_no_paired_test_has_no_p_value(tmp_path, other, seeds, difference):
    path = tmp_path / "some.csv"
    frame = pd.DataFrame(rows(BASE) + rows(other, row="b")).assign(**seeds)
    frame.to_csv(path, index=False)
    (table,) = show(path)
    (b,) = entries(table, "b")
    assert b.runs == len(other) and math.isnan(b.p)
    assert b.difference == pytest.approx(difference, nan_ok=True)


def test_an_unknown_name_is_told(results):
    with pytest.raises(DpmixError, match="unknown fact 'accuracyy': did you mean 'accuracy'"):
        show(results, fact="accuracyy")


def test_a_file_that_is_no_sweeps_results_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    for wrong in (path, tmp_path):
        with pytest.raises(DpmixError, match="holds no results of a sweep"):
            read_results(wrong)


def test_markdown_marks_what_differs(results):
    (table,) = show(results)
    text = markdown(table)
    assert "| | epsilon 1 | epsilon 8 |" in text
    assert "| b | 62.00 ± 2.16 * |  |" in text
    assert "| c | 51.75 ± 2.22 |  |" in text


@pytest.mark.parametrize("name", ["method", "steps", "sampling_rate"])
def test_settings_that_have_a_column_of_their_own_are_never_averaged_over(tmp_path, name):
    made = rows(BASE) + rows(BETTER, row="b") + rows(SAME, row="b")
    frame = pd.DataFrame(made).assign(**{name: [1] * 8 + [2] * 4})
    frame.to_csv(tmp_path / "results.csv", index=False)
    assert swept(frame) == [name]
    (table,) = show(tmp_path / "results.csv")
    assert list(table["row"]) == [f"a, {name} 1", f"b, {name} 1", f"b, {name} 2"]
    assert set(table["runs"]) == {4}
