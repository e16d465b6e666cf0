"""The matrix as a picture."""

from dpmix.reports.page import LEVELS, confusion_matrix
from example_facts import facts


def matrix(confusion):
    measured = facts().metrics
    accuracy = {name: row.get(name, 0) / sum(row.values()) for name, row in confusion.items()}
    return confusion_matrix(
        measured.model_copy(update={"confusion": confusion, "class_accuracy": accuracy})
    )


def test_cells_lie_at_row_of_the_true_and_column_of_the_predicted_class():
    found = matrix({"a": {"a": 9, "b": 3}, "b": {"a": 4}})
    assert [(one.row, one.column, one.images) for one in found.cells] == [
        (0, 0, 9), (0, 1, 3), (1, 0, 4),
    ]  # fmt: skip
    assert [one.level for one in found.cells] == [round(LEVELS * 0.75**0.5), LEVELS / 2, LEVELS]
    assert found.paths == [
        ("right", 7, "M0 0h1v1h-1z"), ("wrong", 4, "M1 0h1v1h-1z"), ("wrong", 8, "M0 1h1v1h-1z"),
    ]  # fmt: skip


def test_the_most_confused_are_those_of_most_images_then_of_the_smaller_class():
    found = matrix({"a": {"a": 6, "b": 4}, "b": {"a": 4}, "c": {"b": 5, "c": 90}})
    assert [(one.true, one.predicted, one.images) for one in found.pairs] == [
        ("c", "b", 5), ("b", "a", 4), ("a", "b", 4),
    ]  # fmt: skip


def test_a_single_image_among_thousands_is_still_seen():
    assert matrix({"a": {"a": 9999, "b": 1}, "b": {"b": 1}}).cells[1].level == 1


def test_a_matrix_of_400_classes_has_no_labels_and_few_paths():
    names = [f"class {index}" for index in range(400)]
    found = matrix({n: {n: 30, names[i - 1]: 1 + i % 20} for i, n in enumerate(names)})
    assert not found.labelled and len(found.pairs) == 10 and len(found.paths) <= 2 * LEVELS
