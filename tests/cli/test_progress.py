"""What a command prints: bars on a terminal, whole lines elsewhere, and names as they are."""

import io
import math

import pytest
from rich.console import Console

from dpmix.cli.progress import decoding_bar, training_bar
from dpmix.privacy.plan import PrivacyPlan
from dpmix.training.evaluate import Evaluation
from dpmix.training.loop import Progress


def drawn(terminal, private=True):
    """What two steps of training and half a decode print."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=160, color_system=None)
    plan = PrivacyPlan.calibrate(
        n=8, expected_batch_size=4, epsilon=1.0 if private else math.inf, delta=1e-2, steps=4
    )
    with training_bar(console, plan, 0, "test") as update:
        update(Progress(1, 4, 1.2412, None))
        scores, images = {"a": 1.0}, {"a": 8}
        found = Evaluation("accuracy", 0.625, scores, 0.625, images, 0.1, 8, 0.0, {}, [])
        update(Progress(2, 4, 1.2412, found))
    with decoding_bar(console) as decoded:
        decoded(50, 100)
    return text.getvalue()


def test_a_terminal_shows_steps_rate_epsilon_and_accuracy():
    text = drawn(terminal=True)
    for said in ("training", "2/4", "steps/s", "epsilon 1.25 of 1.00", "test 62.5%", "50%"):
        assert said in text
    text = drawn(terminal=True, private=False)
    assert "NOT PRIVATE" in text and "epsilon" not in text
    assert drawn(terminal=False).strip() == ""


@pytest.mark.usefixtures("unchecked")
def test_a_terminal_obeys_no_files_name(dpmix, image_root):
    (image_root / "train" / "\x1b]0;title\x07 [red]:x:.png").write_bytes(b"-")
    _, _, err = dpmix("train", "--data", image_root, "--model", "cnn-small", "--dry-run")
    assert "\x1b" not in err and "\x07" not in err
    assert r"\x1b]0;title\x07 [red]:x:.png'" in err
