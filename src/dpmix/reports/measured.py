"""What was measured, as rows of names and values that the terminal, the card and the page share.

Guarantee: accuracy never stands alone. The accuracy of always answering the most frequent class
stands next to it, and where the classes are unequal, balanced accuracy and the worst class come
first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from dpmix.reports.metrics import Metrics
from dpmix.training.evaluate import Evaluation
from dpmix.training.measures import RANKING, Estimate, Measures, shown_name

Row = tuple[str, str]
Measured = Evaluation | Metrics
Form = Callable[[float, int], str]
"""Writes a share with a number of digits: "93.42 %" or "93.42%"."""

UNEQUAL = 3  # the largest class has more than this many times the images of the smallest
CHOSEN_HERE = "chosen on these same images, on which it looks better than on others"
_LISTED = ("accuracy", "balanced_accuracy", "macro_f1", "labels_right", *RANKING)


def estimate(found: Estimate, form: Form) -> str:
    """A measure with its interval; a bootstrap of images that are all right gives none."""
    if found.low == found.high:
        return f"{form(found.value, 2)} (in every resample)"
    return f"{form(found.value, 2)} ({form(found.low, 1)} to {form(found.high, 1)})"


def headline(found: Measured) -> Estimate | None:
    """The interval of the score; None for an evaluation that was not the last."""
    if found.measures is None:
        return None
    return found.measures.overall["auroc" if found.accuracy is None else "accuracy"]


def baseline(found: Measured, form: Form) -> Row:
    """The accuracy of always answering the most frequent class."""
    name, count = max(found.class_images.items(), key=lambda item: item[1])
    return "majority baseline", f"{form(count / found.images, 2)}, by always answering {name}"


def unequal(found: Measured) -> bool:
    """Whether some class has more than three times as many images as another."""
    counts = [count for count in found.class_images.values() if count]
    return found.accuracy is not None and max(counts) > UNEQUAL * min(counts)


def measured_rows(found: Measured, first: Row, start: Sequence[Row], form: Form) -> list[Row]:
    """The measures in the order of what matters.

    Args:
        found: what was measured.
        first: name and text of the accuracy, or of the mean AUROC.
        start: rows that compare it with the model before its training.
        form: how shares are written.
    """
    first_rows = [*one_answer(found), first]
    name, score = min(found.class_scores.items(), key=lambda item: item[1])
    of_label = "AUROC " if found.accuracy is None else ""
    worst = (f"worst {'label' if of_label else 'class'}", f"{name}: {of_label}{form(score, 2)}")
    if found.accuracy is None:
        return [*first_rows, *start, *_overall(found, RANKING, form), *_others(found, form), worst]
    balanced = _overall(found, ["balanced_accuracy"], form) or [
        ("balanced accuracy", form(balanced_accuracy(found), 2))
    ]
    whole = [*first_rows, baseline(found, form), *start]
    rest = _overall(found, ["macro_f1", *RANKING], form) + _others(found, form)
    if unequal(found):
        return [*balanced, worst, *whole, *rest]
    return [*whole, *balanced, worst, *rest]


def one_answer(found: Measured) -> list[Row]:
    """What to do where the model gives one answer to every image."""
    given = {name for row in found.confusion.values() for name in row}
    if len(given) != 1:
        return []
    text = f"every image is called {given.pop()}; AUROC shows what the model knows"
    if len(found.class_images) == 2:
        text += ", and a threshold from validation images (--validation-fraction) uses it"
    return [("one answer", text)]


def below_start(found: Measured, start: float, form: Form) -> str | None:
    """What to do where private training did not end above its start."""
    if found.score > start:
        return None
    counts = found.class_images.values()
    if found.accuracy is not None and start <= max(counts) / found.images:
        return (
            "accuracy did not rise above that of one answer to every image: look at AUROC and "
            "balanced accuracy, or give a larger --epsilon"
        )
    return (
        f"private training did not end above its start ({form(start, 2)}): publish the start "
        "(--steps 0) if it comes from public images or words, or give a larger --epsilon"
    )


def balanced_accuracy(found: Measured) -> float:
    """The mean accuracy of the classes that have images."""
    return mean(found.class_scores[name] for name, count in found.class_images.items() if count)


def _overall(found: Measured, wanted: Sequence[str] | dict[str, str], form: Form) -> list[Row]:
    """The measures `wanted` that are there and are not the headline."""
    overall = {} if found.measures is None else found.measures.overall
    return [
        (shown_name(one, mean=_has_means(found)), estimate(overall[one], form))
        for one in wanted
        if one in overall and not (found.accuracy is None and one == "auroc")
    ]


def _has_means(found: Measured) -> bool:
    """Whether ranking measures are means: of two classes, they are of the second one."""
    return found.accuracy is None or len(found.class_images) != 2


def _others(found: Measured, form: Form) -> list[Row]:
    """Labels at a threshold, what is left out, decisions at the chosen thresholds, resamples."""
    rows, measures, decisions = [], found.measures, found.decisions
    if measures is None:
        return []
    if (right := measures.overall.get("labels_right")) is not None:
        rows.append(("known labels right, at 0.5", estimate(right, form)))
    if measures.left_out:
        rows.append(("left out of the means", f"{measures.left_out} of {len(found.class_images)}, "
                     "which lack images with or without them"))  # fmt: skip
    if not _has_means(found):
        rows.append(("positive class", f"{[*found.class_images][1]}: AUROC, average precision, "
                     "sensitivity, specificity and threshold are of it"))  # fmt: skip
    if decisions is not None:
        origin = CHOSEN_HERE if decisions.chosen_here else "chosen on validation images"
        shown = ", ".join(f"{one:.4g}" for one in decisions.thresholds)
        rows.append(("stored threshold", f"probability {shown}: {origin}"))
        rows += [
            (f"{shown_name(one, mean=False)} at the threshold", estimate(value, form))
            for one, value in decisions.overall.items()
        ]
    rows.append(("intervals", f"95 %, from {measures.resamples} resamples of "
                 f"{measures.unit_count} {measures.units}"))  # fmt: skip
    return rows


@dataclass(frozen=True)
class GroupTable:
    """Measures by the values of one column, as text."""

    column: str
    header: list[str]
    rows: list[list[str]]
    not_listed: int


def group_tables(found: Measured, form: Form) -> list[GroupTable]:
    """A table of measures for each column of the list of subgroups."""
    tables = []
    for column, by_value in found.subgroups.items():
        groups = by_value.groups
        shown = [one for one in _LISTED if any(one in group.overall for group in groups.values())]
        rows = [
            [value, _counted(group), *(
                estimate(group.overall[one], form) if one in group.overall else "-" for one in shown
            )]
            for value, group in groups.items()
        ]  # fmt: skip
        mean = _has_means(found)
        header = [column, "images", *(shown_name(one, mean=mean) for one in shown)]
        tables.append(GroupTable(column, header, rows, by_value.not_listed))
    return tables


def _counted(group: Measures) -> str:
    return f"{group.images}" + (
        f" of {group.unit_count} persons" if group.units == "persons" else ""
    )


def worst_groups(found: Measured, form: Form) -> list[Row]:
    """The group with the lowest score in each column of the list of subgroups."""
    rows, key = [], "auroc" if found.accuracy is None else "accuracy"
    for column, by_value in found.subgroups.items():
        scores = {v: group.overall[key] for v, group in by_value.groups.items()
                  if key in group.overall}  # fmt: skip
        text = "no group with a score"
        if scores:
            value = min(scores, key=lambda one: scores[one].value)
            text = (
                f"{value}: {found.measure} {estimate(scores[value], form)}, "
                f"{by_value.groups[value].images} images"
            )
        more = f"; not listed: {by_value.not_listed}" if by_value.not_listed else ""
        rows.append((f"worst group by {column}", text + more))
    return rows
