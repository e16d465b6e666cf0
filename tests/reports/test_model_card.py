"""The card is readable Markdown, whatever classes are called."""

import re

from dpmix.reports.model_card import model_card
from example_facts import facts


def test_it_says_the_guarantee_the_accuracy_and_what_is_assumed():
    run = facts(validation_fraction=0.2)
    card = model_card(run)
    assert run.statement.guarantee in card and "| measured on | 60 validation images |" in card
    assert "- The validation images, a fixed share of the training images" in card
    assert "test split" not in card
    for assumption in run.statement.assumptions:
        assert f"- {assumption}\n" in card


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
