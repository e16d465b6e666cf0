"""Classes and probabilities of image files, as rows for CSV or JSON."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dpmix.data import decode_files
from dpmix.data.folder_listing import SUFFIXES
from dpmix.errors import DpmixError
from dpmix.saved import SavedRun
from dpmix.training.json_text import to_json


@dataclass(frozen=True)
class Prediction:
    """One image's class and its probabilities, in class order."""

    image: str
    prediction: str
    probabilities: tuple[float, ...]


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files given, and the images in and below the folders given, in sorted order.

    Raises:
        DpmixError: a path that does not exist, or no image at all.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            files += sorted(found)
        elif path.is_file():
            files.append(path)
        else:
            raise DpmixError(f"no file or folder '{path}'; expected images there: check the path")
    if not files:
        shown = ", ".join(str(path) for path in paths)
        raise DpmixError(f"no image in '{shown}'; expected {', '.join(sorted(SUFFIXES))}")
    return files


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse a file that predictions can't or should not go to, before any work is done.

    Raises:
        DpmixError: a name that says neither CSV nor JSON, or a file that is there already.
    """
    if output.suffix not in (".csv", ".json"):
        raise DpmixError(f"output is '{output}'; expected a name ending in .csv or .json")
    if output.exists() and not overwrite:
        raise DpmixError(
            f"output '{output}' is there already; give another --output, or --overwrite"
        )


def predictions(
    saved: SavedRun, files: Sequence[Path], device: torch.device
) -> Iterator[Prediction]:
    """Classify `files` in order, a bounded batch at a time."""
    names, position = saved.input.class_names, 0
    for pixels in decode_files(files, saved.input.image_shape, saved.input.reading):
        with torch.inference_mode():
            scores = saved.model(saved.normalization(pixels.to(device))).float().softmax(dim=1)
        for row in scores.cpu().tolist():
            best = max(range(len(row)), key=row.__getitem__)
            yield Prediction(str(files[position]), names[best], tuple(row))
            position += 1


def as_csv(rows: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """Header `image,prediction,p(<class>)...`, then a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "prediction", *(f"p({name})" for name in class_names)])
    for row in rows:
        writer.writerow([row.image, row.prediction, *(f"{p:.6f}" for p in row.probabilities)])
    return text.getvalue()


def as_json(rows: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """A list of objects with `image`, `prediction` and `probabilities` by class name."""
    return to_json(
        [
            {
                "image": row.image,
                "prediction": row.prediction,
                "probabilities": dict(zip(class_names, row.probabilities, strict=True)),
            }
            for row in rows
        ]
    )
