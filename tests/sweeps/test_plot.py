"""A sweep's results as pictures: which names may be drawn against."""

import pandas as pd
import pytest

from dpmix.sweeps import plot as plots
from dpmix.sweeps.plot import draw_against, draw_classes


@pytest.fixture
def frame():
    return pd.DataFrame(
        [
            {"row": f"K_DIFF {public}", "data": "d", "model": "m", "epsilon": epsilon, "seed": seed,
             "accuracy": 0.5 + 0.01 * public + 0.02 * seed, "worst_class_accuracy": 0.1,
             "calibration_error": 0.1, "base_views": 4, "public_views": public,
             "class_accuracy": '{"a": 0.5, "b": 1.0}', "curve": "[[1, 0.2], [2, 0.4]]"}
            for public in (0, 2, 8) for epsilon in (1, 8) for seed in (0, 1)
        ]
    )  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """Figures that would have been written."""
    figures = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    return figures


def test_rows_that_differ_by_their_views_are_points_of_one_line(frame, tmp_path, drawn):
    draw_against(frame, tmp_path / "p.png", x="public_views")
    lines = drawn[0].axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["epsilon 1", "epsilon 8"]
    for line in lines:
        assert [*line.get_xdata()] == [0, 2, 8]
        assert [*line.get_ydata()] == pytest.approx([51, 53, 59])


def test_classes_have_a_panel_an_epsilon(frame, tmp_path, drawn):
    draw_classes(frame, tmp_path / "p.png")
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == [
        f"d, m, epsilon {epsilon}, 2 seeds, ± standard deviation" for epsilon in (1, 8)
    ]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    for panel in panels:
        assert panel.get_legend_handles_labels()[1] == ["K_DIFF 0", "K_DIFF 2", "K_DIFF 8"]
