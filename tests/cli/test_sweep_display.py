"""What a sweep draws on a terminal."""

import io

import pytest
from rich.console import Console

from dpmix.cli.sweep import live_results

RUN = {"row": "none", "epsilon": 3.0, "accuracy": 0.5}


@pytest.mark.parametrize(("rows", "said"), [([], "0 of 12 runs"), ([RUN], "1 of 12 runs")])
def test_how_many_runs_there_are_stands_on_one_line(rows, said):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=80, color_system=None)
    with live_results(console, 12) as display:
        display.show(rows, None)
    assert said in text.getvalue()
    assert ("50.0% (1)" in text.getvalue()) == bool(rows)
