"""The rows of what was measured: their order, their words, and the tables of groups."""

import pytest
import torch

from dpmix.reports.facts import accuracy_rows, percent
from dpmix.reports.measured import group_tables, unequal, worst_groups
from dpmix.reports.page import model_card, report_page
from dpmix.reports.summary import evaluation_rows
from dpmix.training.evaluate import InFull, evaluate_logits
from several_labels import Labelled, groups, judged, several

pytestmark = pytest.mark.usefixtures("unchecked")


def two_classes(counts, wrong=2):
    """Images of `benign` and `malignant`, of each of which `wrong` are taken for the other."""
    labels = torch.tensor([0] * counts[0] + [1] * counts[1])
    answers = labels.clone()
    for start in (0, counts[0]):
        answers[start : start + wrong] = 1 - answers[start : start + wrong]
    scores = 3 * torch.nn.functional.one_hot(answers, 2).float()
    return Labelled(labels, ("benign", "malignant")), scores


def names_of(counts):
    source, scores = two_classes(counts)
    return [name for name, _ in evaluation_rows(evaluate_logits(scores, source, InFull()), "test")]


def test_the_baseline_stands_next_to_the_accuracy_and_comes_later_where_classes_are_unequal():
    names = names_of((20, 20))
    assert names[:3] == ["test accuracy", "majority baseline", "balanced accuracy"]
    names = names_of((40, 10))
    assert names[:4] == [
        "balanced accuracy", "worst class", "test accuracy", "majority baseline",
    ]  # fmt: skip
    source, scores = two_classes((40, 10))
    found = dict(evaluation_rows(evaluate_logits(scores, source, InFull()), "test", 0.5))
    assert found["majority baseline"] == "80.00%, by always answering benign"
    # 38 of 40 and 8 of 10.
    assert found["balanced accuracy"].startswith("87.50% (")
    assert found["worst class"] == "malignant: 80.00%"
    assert found["test accuracy"].startswith("92.00% of 50 images (EMA weights), ")
    assert found["before any private image"] == "50.00% (epsilon 0)"
    assert found["positive class"].startswith("malignant: ")
    assert not unequal(evaluate_logits(*reversed(two_classes((30, 10)))))


def test_one_answer_for_every_image_is_said_with_what_helps():
    source, scores = two_classes((40, 10))
    same = torch.tensor([[3.0, 0.0]]).repeat(50, 1)
    found = dict(evaluation_rows(evaluate_logits(same, source, InFull()), "test", 0.8))
    assert found["one answer"].startswith("every image is called benign; AUROC shows")
    assert "--validation-fraction" in found["one answer"]
    assert found["no gain"].startswith("accuracy did not rise above that of one answer")
    rows = dict(evaluation_rows(evaluate_logits(scores, source, InFull()), "test", 0.95))
    assert "one answer" not in rows and "publish the start" in rows["no gain"]


def test_card_and_page_say_where_a_threshold_comes_from_and_show_it_and_one_half():
    run = judged(*two_classes((40, 10)), groups(50, "old", "new", column="scanner"))
    rows = dict(accuracy_rows(run))
    assert rows["accuracy"].startswith("92.00 % (") and "accuracy at the threshold" in rows
    assert "chosen on these same images" in rows["stored threshold"]
    for text in (model_card(run), report_page(run)):
        assert "Subgroups by scanner" in text and "chosen on these same images" in text


def test_a_page_of_several_labels_has_no_confusion_and_no_accuracy():
    run = judged(*several())
    page = report_page(run)
    assert "Confusion matrix" not in page and "Labels, lowest AUROC first" in page
    assert "majority baseline" not in page and "mean AUROC" in page
    for name, score in run.metrics.class_scores.items():
        assert name in page and percent(score) in page
    assert report_page(judged(*two_classes((20, 20)))).count("Confusion matrix") > 0


def test_groups_are_shown_with_their_numbers_and_the_worst_is_named():
    source, scores = two_classes((40, 10))
    found = evaluate_logits(scores, source, InFull(groups=groups(50, "old", "new", "new")))
    (table,) = group_tables(found, percent)
    assert table.header[:3] == ["sex", "images", "accuracy"]
    assert [row[:2] for row in table.rows] == [["new", "33"], ["old", "17"]]
    shares = {v: g.overall["accuracy"].value for v, g in found.subgroups["sex"].groups.items()}
    (row,) = worst_groups(found, percent)
    assert row[1].startswith(f"{min(shares, key=shares.get)}: accuracy ")
