"""The card: readable Markdown with what the statement and the metrics hold."""

import re

import pytest

from dpmix.pool.load import PoolFacts
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.metrics import metrics
from dpmix.reports.model_card import model_card
from dpmix.reports.statement import privacy_statement
from dpmix.runs.config import Config
from dpmix.runs.defaults import choose_model
from dpmix.runs.settings import InputConfig
from dpmix.training.evaluate import Evaluation
from dpmix.training.loop import History


def card(classes, pool=None, **settings):
    plan = PrivacyPlan.calibrate(n=100, expected_batch_size=50, epsilon=2.0, delta=1e-4, steps=5)
    config = choose_model(Config.load(model="cnn-small", **settings)).model_copy(
        update={"input": InputConfig(image_shape=(1, 8, 8), class_names=tuple(classes))}
    )
    evaluation = Evaluation(0.75, classes, 0.6, 200, 0.0625, {}, [])
    history = History([{"step": 5, "epsilon": 2.0, "accuracy": 0.75}], evaluation)
    statement = privacy_statement(
        config,
        plan,
        pool=pool,
        backbone=None,
        steps=5,
        weights_sha256="ab",
        config_sha256="cd",
        run_id="r",
    )
    return model_card(
        config, statement, metrics(config, plan, history, 1234, "examplewise")
    ), statement


def test_it_says_the_guarantee_the_accuracy_and_the_worst_class():
    text, statement = card({"cat": 0.9, "dog": 0.6})
    assert statement["guarantee"] in text
    for said in (
        "75.00 % of 200 images",
        "dog: 60.00 %",
        "| 6.25 % |",
        "| 1234 |",
        "uint8 1 x 8 x 8",
        "5 of 5",
    ):
        assert said in text
    for assumption in statement["assumptions"]:
        assert f"- {assumption}\n" in text


def test_validation_images_are_called_so_and_not_protected():
    text, _ = card({"cat": 0.9, "dog": 0.6}, validation_fraction=0.2)
    assert "| validation accuracy (moving average of the weights) | 75.00 % of 200 images |" in text
    assert "- The validation images, a fixed share of the training images" in text
    assert "test accuracy" not in text and "test split" not in text


def test_every_table_row_has_two_cells_whatever_a_class_is_called():
    text, _ = card({"a|b": 0.5, "<i>c</i>": 0.5, "é": 1.0})
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 15
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 3, row


def test_names_are_no_markup():
    names = {"<img src=x>": 0.5, "](javascript:alert(1))": 0.5, "`a`": 1.0}
    text, _ = card(names | {"scans\n# Injected\x1b[31m <b>": 1.0})
    assert "\\<img src=x\\>" in text and "\\](javascript:alert(1))" in text
    assert "\\`a\\`" in text and "\x1b" not in text
    assert "\n| scans # Injected \\[31m \\<b\\> | 100.00 % |\n" in text


@pytest.mark.parametrize(
    ("model", "licence", "said"),
    [
        ("painter at 12ab", "openrail", "drawn by painter at 12ab (licence: openrail)"),
        (None, None, "not stated: no manifest (licence: not stated)"),
    ],
)
def test_a_pool_is_named_with_who_drew_it(model, licence, said):
    facts = PoolFacts("images", 40, "aa", "bb", model, licence, left_out=7)
    text, _ = card({"a": 1.0, "b": 1.0}, facts, method="mix-diff")
    pool = "40 images (7 left out, 0 without a label), role `mix`, drawn uniform"
    assert f"| public pool | {pool} |" in text
    assert f"| origin of the pool | {said} |" in text
    assert "| pretrained weights | none |" in text
