"""Classes and probabilities of image files, as CSV or JSON."""

import csv
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dpmix.data.decode import decode_files
from dpmix.data.folder import SUFFIXES, list_images, local_path, warn_of_left_out
from dpmix.errors import DpmixError
from dpmix.files import to_json
from dpmix.runs.load import SavedRun
from dpmix.training.answers import HALF, decide, probabilities

# Control characters, and what Python puts into a name for bytes that are not UTF-8.
_NOT_PLAIN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Prediction:
    """The predicted class of one image, or its labels, and all probabilities in their order."""

    image: str
    prediction: str
    probabilities: tuple[float, ...]


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The given files, and the images in and below the given folders, in sorted order.

    A folder is listed as for training; a warning says which files are left out.
    """
    files: list[Path] = []
    left_out: list[Path] = []
    for path in (local_path(str(path)) for path in paths):
        if path.is_dir():
            images, others = list_images(path)
            files += images
            left_out += others
        elif path.is_file():
            files.append(path)
        else:
            raise DpmixError(f"no file or folder '{path}'; expected images there: check the path")
    warn_of_left_out(left_out)
    if not files:
        shown = ", ".join(str(path) for path in paths)
        raise DpmixError(f"no image in '{shown}'; expected {', '.join(sorted(SUFFIXES))}")
    return files


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse a file that predictions can't be written to, before any work is done."""
    if output.suffix not in (".csv", ".json"):
        raise DpmixError(f"output is '{output}'; expected a name ending in .csv or .json")
    if output.is_dir() or not os.access(output.absolute().parent, os.W_OK):
        raise DpmixError(
            f"output '{output}' can't be written; give a file in a folder that exists and that you "
            "may write to"
        )
    if output.exists() and not overwrite:
        raise DpmixError(f"output '{output}' exists; give another --output, or --overwrite")


def predictions(
    saved: SavedRun,
    files: Sequence[Path],
    device: torch.device,
    skipped: dict[Path, str] | None = None,
    threshold: float | None = None,
) -> Iterator[Prediction]:
    """Classify `files` in order, one batch at a time.

    A threshold, that of the run or the one given here, decides for the second of two classes or for
    each of several labels, which are joined by ";".
    """
    names, position = saved.input.class_names, 0
    shape, window = saved.input.image_shape, saved.config.data.window
    thresholds, several = thresholds_for(saved, threshold), saved.several_labels
    for pixels in decode_files(files, shape, skipped=skipped, window=window):
        with torch.inference_mode():
            scores = saved.model(saved.normalization(pixels.to(device))).float().cpu()
        sure = probabilities(scores, several=several)
        for row, chosen in zip(sure.tolist(), decide(sure, thresholds), strict=True):
            while skipped and files[position] in skipped:
                position += 1
            if not all(map(math.isfinite, row)):
                raise DpmixError(
                    f"the model's probabilities of '{files[position]}' are not finite: its "
                    "training diverged; train again with a lower --learning-rate"
                )
            answer = ";".join(names[place] for place in chosen.nonzero().flatten().tolist())
            yield Prediction(_written_path(files[position]), answer, tuple(row))
            position += 1


def thresholds_for(saved: SavedRun, given: float | None) -> tuple[float, ...] | None:
    """The thresholds to decide by: the one given for all, or the run's; None: no threshold.

    Raises:
        DpmixError: a threshold that is no probability, or for a model that has no use for it.
    """
    names = saved.input.class_names
    count = len(names) if saved.several_labels else 1
    if given is None:
        return saved.input.thresholds or ((HALF,) * count if saved.several_labels else None)
    if not 0 <= given <= 1:
        raise DpmixError(f"threshold is {given}; expected a probability, 0 to 1")
    if not saved.several_labels and len(names) > 2:
        raise DpmixError(
            f"threshold is {given}, but the model has {len(names)} classes, of which the most "
            "probable one is predicted; expected two classes or several labels: leave it out"
        )
    return (given,) * count


def _written_path(path: Path) -> str:
    """`path` as text; a name that is no plain text becomes a `file:` URI, with bytes as %XX."""
    return path.absolute().as_uri() if _NOT_PLAIN.search(str(path)) else str(path)


def as_csv(rows: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """A header `image,prediction,p(<class>)...`, then one line per image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "prediction", *(f"p({name})" for name in class_names)])
    for row in rows:
        writer.writerow([row.image, row.prediction, *(f"{p:.6f}" for p in row.probabilities)])
    return text.getvalue()


def as_json(rows: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """A list of objects with `image`, `prediction` and `probabilities` by class name."""
    return to_json([
        vars(row) | {"probabilities": dict(zip(class_names, row.probabilities, strict=True))}
        for row in rows
    ])  # fmt: skip
