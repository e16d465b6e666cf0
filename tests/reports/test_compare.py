"""What differs between runs, and what they cost together."""

import re
import shutil

import pytest

from dpmix.audit.audit import audited_facts
from dpmix.privacy.accounting import epsilon_pld, epsilon_together
from dpmix.privacy.repeats import epsilon_of_copies_together
from dpmix.reports.compare import compare as compare_runs
from dpmix.runs.folder import RunFolder
from dpmix.runs.settings import places
from example_facts import write_run


def compare(roots):
    """Of run folders, as the command line calls it."""
    runs = [audited_facts(RunFolder(root)) for root in roots]
    return compare_runs([root.name for root in roots], runs, places("path") | places("resume"))


@pytest.fixture
def folder(tmp_path):
    """folder("name", **settings): the public files of a run that never was."""

    def write(name, *arguments, **settings):
        return write_run(tmp_path / name, *arguments, run_id=name, **settings)

    return write


def test_what_a_method_does_not_read_is_no_difference(folder):
    found = compare([
        folder("a", method="none", mixup_alpha=0.5), folder("b", method="self-aug", k_base=8),
        folder("c", k_self=4),
    ])  # fmt: skip
    assert found.settings == [
        ("method", ["none", "self-aug", "mix-self"]), ("k_base", ["not read", "8", "16"]),
    ]  # fmt: skip


def test_size_and_channels_are_settings_and_the_data_are_the_same(folder):
    shapes = [(3, 8, 8), (3, 32, 32), (1, 4, 9)]
    found = compare([folder(str(place), shape=shape) for place, shape in enumerate(shapes)])
    assert found.settings == [("image shape", [str(shape) for shape in shapes])]
    assert found.data == [] and found.why_not is None
    alike = compare([folder(f"alike-{place}") for place in range(len(shapes))])
    assert found.together == alike.together is not None


@pytest.mark.parametrize(("change", "reason"), [
    ({"epsilon": float("inf")}, "'b' was trained without privacy: leave such runs out"),
    ({"seed": 1}, "'b' is seeded, and runs of one seed share their noise"),
])  # fmt: skip
def test_the_run_without_which_there_would_be_an_epsilon_is_named(folder, change, reason):
    found = compare([folder("a"), folder("b", **change), folder("c")])
    assert found.together is None and re.match(reason, found.why_not)


def test_folders_of_another_name_differ_and_are_not_named(folder):
    found = compare([folder("a", data="/x/scans"), folder("b", data="/x/hiv"),
                     folder("c", data="/y/scans"), folder("other/a", data="mnist5k")])  # fmt: skip
    assert found.names == ("a (1)", "b", "c", "a (4)")
    one, other = "images in a folder (1)", "images in a folder (2)"
    assert found.data == [("data set", [one, other, one, "mnist5k"])]


def test_together_they_cost_more_than_one_and_less_than_the_sum(folder):
    roots = [folder("a"), folder("b", epsilon=1.0)]
    epsilon, delta = compare(roots).together
    assert 2 < epsilon < 3 and delta == 1e-4
    again = shutil.copytree(roots[0], roots[0].with_name("copy"))
    copied = compare([roots[0], again])
    assert copied.together is None and "all are one release" in copied.why_not


def test_who_is_repeated_has_an_epsilon_together_as_well(folder):
    roots = [folder("a", copies=3, allow_repeats=True), folder("b", copies=3, allow_repeats=True)]
    found = compare(roots)
    said = found.runs[0].statement
    one = (said.sampling_rate, said.noise_multiplier, said.steps)
    assert found.repeated == (3, epsilon_of_copies_together((one, one), 3, 1e-4))
    assert found.repeated[1] > said.repeats.epsilon > found.together[0]
    assert compare([folder("c"), folder("d")]).repeated is None
    others = compare([roots[0], folder("e", copies=2, allow_repeats=True)])
    assert others.data == [("most frequent image", ["occurs 3 times", "occurs 2 times"])]
    # The bound is for a person with one image in the data of each run, whatever the others are.
    assert others.repeated == (3, pytest.approx(found.repeated[1]))
    # Nothing is counted where nothing is claimed.
    assert compare([roots[0], folder("f", epsilon=float("inf"))]).data == []


def test_earlier_and_later_steps_of_a_run_both_count(tmp_path):
    early = write_run(tmp_path / "early", weights="a" * 64, steps=20, done=5)
    late = write_run(tmp_path / "late", weights="b" * 64, steps=20)
    epsilon, _ = compare([early, late]).together
    assert epsilon > 2


def test_together_is_the_composition():
    one = (0.5, 2.0, 5)
    assert epsilon_together((one,), 1e-4) == epsilon_pld(*one, 1e-4)
    assert epsilon_together((one, one), 1e-4) == pytest.approx(epsilon_pld(0.5, 2.0, 10, 1e-4))
    both = epsilon_together((one, (1.0, 9.0, 1)), 1e-4)
    assert both == pytest.approx(epsilon_pld(*one, 1e-4, (9.0,)))
