"""Runs on one page."""

import re
from dataclasses import replace
from html import unescape

from dpmix.reports.compare import compare_page
from dpmix.reports.page import MOST_SHOWN
from dpmix.reports.statement import shown_epsilon
from example_facts import facts, not_private


def page_of(*runs, **changes):
    names = [f"run-{place}" for place in range(len(runs))]
    found = {
        "settings": [],
        "data": [],
        "together": None,
        "why_not": None,
        "repeated": None,
    } | changes
    return compare_page(names, runs, **found)


def text_of(page):
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.split("<main>")[1])).split())


def test_it_shows_guarantee_accuracy_and_curves_of_every_run():
    runs = [facts(errors=1), facts(errors=2, epsilon=1.0)]
    page = page_of(*runs, settings=[("steps", ["5", "9"])], together=(2.4567, 1e-4))
    text = text_of(page)
    for run in runs:
        assert f"{100 * run.metrics.accuracy:.2f} %" in text
        assert f"{100 * run.metrics.calibration_error:.2f} %" in text
        for share in run.metrics.class_accuracy.values():
            assert f"{100 * share:.2f} %" in text
    assert "steps 5 9" in text and "epsilon 2.457 at delta 0.0001" in text
    assert page.count('<polyline class="line c0"') == 2 == page.count('<polyline class="line c1"')


def test_what_must_not_be_compared_is_said_in_big_letters():
    page = page_of(facts(), facts(("cat", "fox")), data=[("classes", ["a", "b"])])
    assert "<strong>THE DATA DIFFER</strong>" in page
    assert "THE DATA DIFFER" not in page_of(facts(), facts())


def test_why_there_is_no_epsilon_of_all_is_said():
    page = page_of(facts(), not_private(), why_not="'run-1' was trained without privacy")
    assert "No epsilon of all together: 'run-1' was trained without privacy." in text_of(page)
    assert "all together" not in page_of(facts(), facts(), together=(2.0, 1e-4))


def test_runs_without_privacy_or_with_a_seed_are_marked():
    page = page_of(facts(), not_private(), facts(seed=3))
    assert "<strong>NOT PRIVATE: run-1</strong>" in page
    assert "<strong>SEEDED RUN: run-2</strong>" in page
    assert page.count("<strong>") == 2
    assert "An epsilon holds for one run alone." in page
    assert text_of(page_of(not_private(), not_private())).count("NOT PRIVATE") == 4


def test_a_stopped_run_is_compared_by_the_epsilon_of_its_plan():
    run = facts(steps=20, done=5)
    said = run.statement
    whole, at_stop = shown_epsilon(said.epsilon), shown_epsilon(said.epsilon_at_fixed_stop)
    text = text_of(page_of(facts(), run))
    assert f"{whole} ({at_stop} only if its stop was fixed beforehand)" in text
    assert text.count(at_stop) == 1


def test_of_many_classes_those_that_differ_most_come_first():
    names = [f"c{place}" for place in range(40)]
    first = facts(names)
    accuracy = first.metrics.class_accuracy
    changed = accuracy | {"c31": 1 - accuracy["c31"] if accuracy["c31"] != 0.5 else 0.0}
    second = replace(first, metrics=first.metrics.model_copy(update={"class_accuracy": changed}))
    shown = page_of(first, second).split('id="classes"')[1]
    assert re.search(r'class="name" title="([^"]*)"', shown).group(1) == "c31"
    assert f"The other {40 - MOST_SHOWN} classes" in shown


def test_names_are_escaped():
    assert "<i>x" not in compare_page(
        ["<i>x", "y"], [facts(), facts()], settings=[("<i>x", ["<i>x", "1"])], data=[],
        together=None, why_not=None, repeated=None,
    )  # fmt: skip
