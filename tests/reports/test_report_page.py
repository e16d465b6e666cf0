"""The page says what the card says and more, escapes what it is given, and asks for nothing."""

import json
import re
from dataclasses import replace
from html import unescape

import pytest

from dpmix.pool.load import PoolFacts
from dpmix.reports.audit_report import AuditReport, Finding
from dpmix.reports.model_card import model_card
from dpmix.reports.page import report_page
from dpmix.reports.statement import shown_epsilon, shown_sigma
from example_facts import DIGEST, facts, not_private

AUDIT = AuditReport(
    kind="gradient", refuted=False, claimed=2.0, delta=1e-4, one_run=0.75, two_worlds=1.5,
    confidence=0.95, canaries=2000, runs=1, plan={}, settings={}, written="2026-01-02",
    dpmix="0.1.0", invariants=(Finding(name="clipped gradients", holds=True, found="none above"),),
)  # fmt: skip


def text_of(page):
    """What a reader sees, on one line."""
    body = page.split("<main>")[1]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_it_shows_the_whole_guarantee():
    run = facts(k_base=7, k_self=9)
    said, text = run.statement, text_of(report_page(run))
    for shown in (
        said.guarantee, shown_epsilon(said.epsilon), shown_epsilon(said.epsilon_rdp), "0.0001",
        shown_sigma(said.noise_multiplier), "sampling rate q 0.5", "clipping norm C 1",
        "steps T 5 of 5", "training images N 100", said.neighbouring_relation, said.mechanism,
        f"torch {said.versions['torch']}", f"dp-accounting {said.versions['dp-accounting']}",
        "7 crops and flips of it (K_BASE)", "9 mixtures among them (K_SELF)", "K = 16", DIGEST,
        DIGEST[::-1], said.sha256, *said.assumptions, "dpmix verify RUN", "dpmix audit --config",
    ):  # fmt: skip
        assert shown in text, shown
    assert "NOT PRIVATE" not in text and "SEEDED" not in text


def test_it_holds_every_value_of_the_card():
    pool = PoolFacts("images", 40, DIGEST, "bb", "painter at 12ab", "openrail", left_out=7)
    run = facts(method="mix-diff", pool=pool)
    statement, numbers = (
        json.loads(part.model_dump_json()) for part in (run.statement, run.metrics)
    )
    text = text_of(report_page(run)).replace("\u00d7", "x")
    card = model_card(run.config, statement, numbers).replace("`", "")
    rows = [line.split("|")[2].strip() for line in card.splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    for value in rows:
        if value and value not in ("accuracy", "---", "1.0"):
            number = re.fullmatch(r"\d+\.0", value)
            shown = value[:-2] if number else value
            for part in re.split(r"; |: | \(", shown):
                assert part.strip(" )") in text, value


def test_classes_whose_names_begin_alike_are_told_apart_in_the_matrix():
    names = ("pneumonia, bacterial", "pneumonia, viral", "no finding")
    (matrix,) = re.findall(
        r'aria-label="Confusion matrix".*?</svg>', report_page(facts(names)), re.S
    )
    for name in names:
        assert matrix.count(f">{name}<") == 2  # its row and its column
    alike = ("adenocarcinoma of the left lung", "adenocarcinoma of the right lung")
    assert ">adenocarcin…e right lung<" in report_page(facts(alike))


def test_it_shows_what_was_measured_and_that_it_is_not_protected():
    run = facts()
    text = text_of(report_page(run))
    worst = run.metrics.worst_class
    assert f"{100 * run.metrics.accuracy:.2f} %" in text
    assert f"{100 * worst.accuracy:.2f} % class {worst.name}" in text
    assert f"{100 * run.metrics.calibration_error:.2f} %" in text
    assert "which the guarantee does not protect" in text


def test_without_privacy_it_says_so_in_big_letters_and_promises_nothing():
    page = report_page(not_private())
    text = text_of(page)
    assert "<strong>NOT PRIVATE</strong>" in page and "can give away any of its training" in text
    for promised in ("differentially private", "nearly equally likely", "coin is right", "Check it "
                     "With", "the noise hides it", "Shortened to length"):  # fmt: skip
        assert promised not in text, promised
    assert "Not clipped" in text and "No noise" in text


def test_a_seeded_run_says_who_can_undo_the_noise():
    page = report_page(facts(seed=4))
    assert "<strong>SEEDED RUN</strong>" in page
    assert "whoever knows the seed (4) can recompute the noise" in text_of(page)


def test_a_run_that_is_not_over_says_so():
    run = facts(steps=20, done=5)
    page, said = report_page(run), run.statement
    text = text_of(page)
    assert "after step 5 of 20. Its epsilon is that of all 20" in text and "line dash" in page
    whole, at_stop = shown_epsilon(said.epsilon), shown_epsilon(said.epsilon_at_fixed_stop)
    assert f"epsilon {whole} at delta" in text, "the number that is quoted holds wherever it stops"
    conditional = "only if it was fixed beforehand to stop here"
    assert f"epsilon, {conditional} {at_stop}" in text
    assert conditional not in text_of(report_page(facts(steps=20)))


def test_an_audit_is_told_in_plain_words_and_one_that_refutes_in_big_letters():
    run = facts()
    page = report_page(replace(run, audit=AUDIT))
    text = text_of(page)
    assert "Not refuted: the strongest attack shows an epsilon of at least 1.500" in text
    assert "clipped gradients as planned : none above" in text and "2,000 canaries" in text
    found = [("trained weights", False, "other ones", True), ("views", True, "one example", False)]
    findings = (dict(zip(Finding.model_fields, one, strict=True)) for one in found)
    changes = {"refuted": True, "invariants": tuple(Finding(**one) for one in findings)}
    text = text_of(report_page(replace(run, audit=AUDIT.model_copy(update=changes))))
    assert "did not do what its plan says (trained weights)" in text
    assert "trained weights NOT AS PLANNED : other ones views not tested : one example" in text
    refuting = AUDIT.model_copy(update={"refuted": True, "two_worlds": 2.5})
    page = report_page(replace(run, audit=refuting))
    assert "<strong>AN AUDIT REFUTED THE GUARANTEE</strong>" in page
    assert "REFUTED" not in report_page(run)


def test_names_are_escaped_wherever_they_stand():
    names = ("<script>alert(1)</script>", "a&b", '"quoted"\'')
    page = report_page(facts(names))
    assert "<script" not in page
    assert "alert(1)" in page and "a&amp;b" in page


@pytest.mark.parametrize("run", [facts(), facts([f"class {i}" for i in range(400)]), not_private()])
def test_it_asks_for_nothing_outside_and_runs_no_script(run):
    page = report_page(run)
    assert "<script" not in page and not re.search(r"[^-]\bon\w+=", page.split("</style>")[1])
    for reference in re.findall(r"(?:href|src)=\"([^\"]*)\"", page):
        assert reference.startswith(("#", "data:,")), reference
    assert "url(" not in page.replace("url(#", "") and "@import" not in page
    assert "default-src 'none'" in page


def test_a_page_of_400_classes_stays_small_and_folds_most_of_them():
    page = report_page(facts([f"class {i}" for i in range(400)]))
    assert len(page) < 250_000
    folded = page.split("<details")[1].split("</details>")[0]
    assert folded.count("<li") == 388 and "The other 388 classes" in folded
