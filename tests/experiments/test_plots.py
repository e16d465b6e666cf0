"""A sweep's results as pictures: which names may be drawn against."""

import pandas as pd
import pytest
from PIL import Image

from dpmix.errors import DpmixError
from dpmix.experiments import plots
from dpmix.experiments.plots import draw_against


@pytest.fixture
def frame():
    return pd.DataFrame(
        [
            {"row": f"K_DIFF {public}", "data": "d", "model": "m", "epsilon": epsilon, "seed": seed,
             "accuracy": 0.5 + 0.01 * public + 0.02 * seed, "worst_class_accuracy": 0.1,
             "calibration_error": 0.1, "base_views": 4, "public_views": public}
            for public in (0, 2, 8) for epsilon in (1, 8) for seed in (0, 1)
        ]
    )  # fmt: skip


def test_rows_that_differ_by_their_views_are_points_of_one_line(frame, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_against(frame, tmp_path / "p.png", x="public_views", fact="accuracy")
    lines = drawn[0].axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["epsilon 1", "epsilon 8"]
    for line in lines:
        assert [*line.get_xdata()] == [0, 2, 8]
        assert [*line.get_ydata()] == pytest.approx([51, 53, 59])


def test_the_picture_of_them_is_drawn(frame, tmp_path):
    draw_against(frame, tmp_path / "p.png", x="public_views", fact="accuracy")
    assert len(Image.open(tmp_path / "p.png").convert("L").getcolors()) > 20


def test_views_that_do_not_tell_rows_apart_and_unknown_names_are_refused(frame, tmp_path):
    with pytest.raises(DpmixError, match="base_views does not tell the rows apart: 'K_DIFF 0' and"):
        draw_against(frame, tmp_path / "p.png", x="base_views", fact="accuracy")
    for unknown in ("k_dif", "mixed_views"):  # of results without that column
        with pytest.raises(DpmixError, match=f"unknown name '{unknown}'"):
            draw_against(frame, tmp_path / "p.png", x=unknown, fact="accuracy")
