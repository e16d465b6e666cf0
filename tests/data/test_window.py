"""The window's arithmetic: the examples of the standard, its formulas, and properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.data.window import Window, parse_window
from dpmix.errors import DpmixError

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
quick = settings(deadline=None)
reals = st.floats(-1e6, 1e6)
windows = st.builds(Window, reals, st.floats(1, 1e6), st.sampled_from(FUNCTIONS))


def by_the_standard(x, center, width, function):
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2 as they are written, from 0 to 255."""
    if function == "SIGMOID":
        return 255 / (1 + math.exp(-4 * (x - center) / width))
    if function == "LINEAR_EXACT":
        if x <= center - width / 2:
            return 0
        return 255 if x > center + width / 2 else ((x - center) / width + 0.5) * 255
    if x <= center - 0.5 - (width - 1) / 2:
        return 0
    if x > center - 0.5 + (width - 1) / 2:
        return 255
    return ((x - (center - 0.5)) / (width - 1) + 0.5) * 255


# The notes of C.11.2.1.2.1 say which values are black and which white.
@pytest.mark.parametrize(("text", "black", "white"), [
    ("2048,4096", 0, 4095), ("2048,1", 2047, 2048), ("0,100", -50, 49), ("0,1", -1, 0),
    ("32768,65536", 0, 65535), ("-600,1500", -1350, 149),
])  # fmt: skip
def test_the_ends_of_the_window_are_those_of_the_standard(text, black, white):
    values = np.array([black - 1, black, black + 1, white - 1, white, white + 1], np.float64)
    grey = parse_window(text).apply(values)
    assert (grey[:2].tolist(), grey[4:].tolist()) == ([0, 0], [255, 255])
    if white - black > 600:  # more than two values to each grey
        assert grey[2] == 0 and grey[3] == 255


def test_the_middle_is_grey_and_rounded():
    assert Window(0, 510, "LINEAR_EXACT").apply(np.array([0.0, -1, 1])).tolist() == [128, 127, 128]
    assert Window(40, 400).apply(np.array([39.0, 40, -60, 140])).tolist() == [127, 128, 64, 192]


@quick
@given(st.integers(-4096, 4096), st.integers(-3000, 3000), st.integers(1, 5000),
       st.sampled_from(FUNCTIONS))  # fmt: skip
def test_every_function_is_that_of_the_standard(x, center, width, function):
    expected = by_the_standard(x, center, width, function) if abs(x - center) < 100 * width else (
        255 if x > center else 0
    )  # fmt: skip
    assert (
        abs(int(Window(center, width, function).apply(np.array([float(x)]))[0]) - expected) < 0.51
    )


@quick
@given(windows, st.lists(reals, min_size=2, max_size=20))
def test_it_is_monotone_and_a_pixel_depends_on_no_other(window, values):
    values = np.sort(np.array(values))
    grey = window.apply(values)
    assert (np.diff(grey.astype(int)) >= 0).all()
    assert grey.tolist() == [int(window.apply(values[i : i + 1])[0]) for i in range(len(values))]


def test_the_values_are_left_as_they_were():
    values = np.array([1.0, 50.0])
    Window(40, 400).apply(values)
    assert values.tolist() == [1, 50]


@pytest.mark.parametrize(("text", "window"), [
    (None, None), ("dicom", "dicom"), ("40,400", Window(40, 400)),
    (" -600 , 1500.5", Window(-600, 1500.5)), ("+.5,1.", Window(0.5, 1)),
])  # fmt: skip
def test_a_setting_names_a_window(text, window):
    assert parse_window(text) == window


@pytest.mark.parametrize("text", [
    "", "40", "40,400,1", "40,0", "40,0.5", "40,-400", "a,b", "nan,400", "40," + "9" * 400, "DICOM",
])  # fmt: skip
def test_another_setting_is_refused(text):
    with pytest.raises(DpmixError, match=r"^window is .*such as 40,400"):
        parse_window(text)


@pytest.mark.parametrize("bad", [(0, 0, "SIGMOID"), (0, 1, "CUBIC"), (math.nan, 1), (0, math.inf)])
def test_a_window_that_the_standard_does_not_allow_is_refused(bad):
    with pytest.raises(DpmixError, match="window is"):
        Window(*bad)
