"""Images that occur more than once: refused with their numbers, or stated with them."""

import json
import shutil

import pytest

from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.reports.statement import shown_epsilon
from dpmix.reports.verify import verify
from forged_run import forge

pytestmark = pytest.mark.usefixtures("unchecked")

TIMES = 4


@pytest.fixture
def oversampled(image_root):
    """Two of the stripes are put in again: one once, the other three times, as another class."""
    stripes, discs = (image_root / "train" / name for name in ("stripes", "disc"))
    shutil.copy(stripes / "000.png", stripes / "100.png")
    for place in range(TIMES - 1):
        shutil.copy(stripes / "001.png", discs / f"10{place}.png")
    return image_root


def the_plan():
    return PrivacyPlan.calibrate(
        n=80 + TIMES, expected_batch_size=10, steps=2, epsilon=2, delta=1e-3
    )


def expected():
    return epsilon_of_copies(the_plan(), TIMES, 2)


def test_they_are_refused_before_anything_is_written(dpmix, oversampled, tmp_path, flags):
    train = ("train", "--data", oversampled, "--output", tmp_path / "run", *flags)
    for more in ((), ("--dry-run",)):
        status, _, err = dpmix(*train, *more)
        said = " ".join(err.split())
        assert status == 2 and "Traceback" not in said
        assert f"2 images occur more than once in the training set, the most frequent one " \
               f"{TIMES} times ('train/disc/100.png'," in said  # fmt: skip
        assert f"epsilon is {expected():.3f}, not {the_plan().epsilon:.3f}" in said
        assert "Remove the copies" in said and "--allow-repeats" in said
    assert not (tmp_path / "run").exists()


@pytest.fixture
def allowed(dpmix, oversampled, tmp_path, flags):
    run = tmp_path / "run"
    train = ("train", "--data", oversampled, "--output", run, *flags, "--allow-repeats")
    status, out, err = dpmix(*train)
    assert (status, err) == (0, ""), err
    return run, out


def test_allowed_they_are_stated_everywhere(dpmix, allowed, oversampled, tmp_path):
    run, out = allowed
    shown = shown_epsilon(expected())
    assert f"one image occurs {TIMES} times: epsilon {shown} for the person in it" in out
    said = json.loads((run / "privacy.json").read_text())
    assert said["repeats"] == {"most": TIMES, "epsilon": expected()} and said["epsilon"] <= 2
    sentence = f"One image occurs {TIMES} times in the training set: for the person in it, " \
               f"epsilon is {shown}."  # fmt: skip
    row = "epsilon of the person in the most frequent image"
    for name in ("MODEL_CARD.md", "report.html"):
        text = (run / name).read_text()
        assert sentence in text and row in text, name
    assert any(f"up to {TIMES} times" in one for one in said["assumptions"])
    status, out, err = dpmix("verify", run)
    assert (status, err) == (0, "") and f"one image occurs {TIMES} times" in out
    # The settings of the run train again, and keep the permission.
    again = ("train", "--config", run / "config.yaml", "--output", tmp_path / "again")
    assert dpmix(*again)[0] == 0


def test_verify_finds_an_understated_epsilon_of_repeats(allowed, tmp_path):
    run = shutil.copytree(allowed[0], tmp_path / "copy")
    said = json.loads((run / "privacy.json").read_text())
    # A forger who seals again and mends the sentence, but not the numbers.
    sentence = said["guarantee"].replace(shown_epsilon(expected()), "2.100")
    with pytest.raises(DpmixError, match=r"2\.1"):
        verify(forge(run, guarantee=sentence, repeats={"most": TIMES, "epsilon": 2.1}))
    for change in ({"most": TIMES - 1, "epsilon": expected()}, None):
        with pytest.raises(DpmixError, match=r"guarantee|assumptions"):
            verify(forge(run, guarantee=said["guarantee"], repeats=change))
