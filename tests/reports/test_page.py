"""A page says what the files say, escapes what it is given, and asks for nothing."""

import re
from dataclasses import replace
from html import unescape

import pytest

from dpmix.pool.load import PoolFacts
from dpmix.reports.audit_report import AuditReport, Finding
from dpmix.reports.compare import compare
from dpmix.reports.page import compare_page, model_card, report_page
from dpmix.reports.statement import shown_epsilon, shown_sigma
from example_facts import DIGEST, facts, not_private

MANY = [f"class {place}" for place in range(400)]
AUDIT = AuditReport(
    kind="gradient", refuted=False, claimed=2.0, delta=1e-4, one_run=0.75, two_worlds=1.5,
    confidence=0.95, canaries=2000, runs=1, plan={}, settings={}, written="2026-01-02",
    dpmix="0.1.0", invariants=(Finding(name="clipped gradients", holds=True, found="none above"),),
)  # fmt: skip


def text_of(page):
    """What a reader sees, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.split("<main>")[1])).split())


def comparison_of(*runs, **settings):
    return compare_page(compare([f"run-{place}" for place in range(len(runs))], runs, ()))


def test_it_shows_the_whole_guarantee_and_what_was_measured():
    run = facts(k_base=7, k_self=9)
    told, worst, page = run.statement, run.metrics.worst_class, report_page(run)
    for shown in (
        told.guarantee, shown_epsilon(told.epsilon), shown_epsilon(told.epsilon_rdp), "0.0001",
        shown_sigma(told.noise_multiplier), "sampling rate q 0.5", "clipping norm C 1",
        "steps T 5 of 5", "training images N 100", told.neighbouring_relation, told.mechanism,
        f"torch {told.versions['torch']}", "7 self-augmentations", "9 mixtures",
        "K = 16", DIGEST, DIGEST[::-1], told.sha256, *told.assumptions, "dpmix verify RUN",
        f"{100 * run.metrics.accuracy:.2f} %", f"{worst.name}: {100 * worst.score:.2f} %",
        f"{100 * run.metrics.calibration_error:.2f} %", "which the guarantee does not protect",
    ):  # fmt: skip
        assert shown in text_of(page), shown
    assert "NOT PRIVATE" not in page and "SEEDED" not in page and "FAILED" not in page
    assert page == report_page(run), "a function of the facts"


def test_card_and_page_have_the_same_rows():
    pool = PoolFacts("images", 40, DIGEST, "bb", "painter at 12ab", "openrail", left_out=7)
    run = facts(method="mix-diff", pool=pool)
    page = text_of(report_page(run))
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", model_card(run), flags=re.MULTILINE)
    assert len(rows) > 35 and ("origin of the pool", "drawn by painter at 12ab (licence: openrail)"
                               ) in rows  # fmt: skip
    for name, value in rows:
        assert name == "class" or value in page, name


def test_without_privacy_it_says_so_in_big_letters_and_promises_nothing():
    page = report_page(not_private())
    assert "<strong>NOT PRIVATE</strong>" in page and "can reveal any of its training" in page
    for promised in ("differentially private", "nearly equally likely", "blind guess", "Check it",
                     "is shortened"):  # fmt: skip
        assert promised not in page, promised
    assert "Not clipped" in page and "No noise" in page


@pytest.mark.parametrize(("settings", "mark", "text"), [
    ({"seed": 4}, "SEEDED RUN", "anyone who knows the seed (4) can recompute the noise"),
    ({"steps": 20, "done": 5}, "NOT COMPLETE", "after step 5 of 20. Its epsilon is that of all 20"),
])  # fmt: skip
def test_a_run_that_is_seeded_or_not_complete_is_marked(settings, mark, text):
    page = report_page(facts(**settings))
    assert f"<strong>{mark}</strong>" in page and text in text_of(page)


def test_an_audit_is_shown_and_one_that_refutes_in_big_letters():
    run = facts()
    text = text_of(report_page(replace(run, audit=AUDIT)))
    assert "Not refuted: the strongest attack shows an epsilon of at least 1.500" in text
    assert "clipped gradients as planned : none above" in text and "2,000 canaries" in text
    refuting = AUDIT.model_copy(update={"refuted": True, "two_worlds": 2.5})
    page = report_page(replace(run, audit=refuting))
    assert "<strong>AN AUDIT REFUTED THE GUARANTEE</strong>" in page
    assert "REFUTED" not in report_page(run)


PAGES = {
    "one": lambda: report_page(facts(("<script>alert(1)</script>", "a&b", "$q_{\"'"))),
    "many": lambda: report_page(facts(MANY, method="mix-diff")),
    "not private": lambda: report_page(not_private(method="microbatch-mixup", shape=(1, 90, 40))),
    "several": lambda: comparison_of(facts(), not_private(), facts(("<script>", "b"))),
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_it_escapes_names_asks_for_nothing_outside_and_runs_no_script(name):
    page = PAGES[name]()
    assert len(page) < 200_000
    assert "<script" not in page and not re.search(r"<[^>]*\son\w+=", page)
    for reference in re.findall(r"(?:href|src)=\"([^\"]*)\"", page):
        assert reference.startswith(("#", "data:")), reference
    assert "url(" not in page.replace("url(#", "") and "@import" not in page
    assert "default-src 'none'" in page and "/x/" not in page


def test_several_runs_are_shown_and_marked_by_name():
    runs = [facts(errors=1), not_private(errors=2), facts(seed=3)]
    page = comparison_of(*runs)
    text = text_of(page)
    for run in runs:
        for share in (run.metrics.accuracy, *run.metrics.class_scores.values()):
            assert f"{100 * share:.2f} %" in text
    assert "<strong>NOT PRIVATE: run-1</strong>" in page
    assert "<strong>SEEDED RUN: run-2</strong>" in page and page.count("<strong>") == 2
    assert "No epsilon of all together: 'run-1' was trained without privacy" in text
    assert "<strong>THE DATA DIFFER</strong>" in comparison_of(facts(), facts(("cat", "fox")))


def test_names_are_no_markup_and_stay_in_their_cell():
    names = ("a|b", "<img src=x>", "](javascript:alert(1))", "`a`", "é\n# Injected\x1b[31m <b>")
    card = model_card(facts(names))
    assert "\\<img src=x\\>" in card and "\\](javascript:alert(1))" in card
    assert "\\`a\\`" in card and "\x1b" not in card
    assert "\n| é # Injected \\[31m \\<b\\> |" in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert len(rows) > 35
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 3, row
