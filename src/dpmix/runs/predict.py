"""Classes and probabilities of image files, as rows for CSV or JSON."""

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
from dpmix.data.folder_listing import SUFFIXES
from dpmix.data.folder_listing import list_images
from dpmix.data.folder_listing import warn_of_left_out
from dpmix.data.folder_listing import local_path
from dpmix.errors import DpmixError
from dpmix.runs.load import SavedRun
from dpmix.files import to_json



# Control characters, and what stands in a name for bytes that are not UTF-8.
_NOT_PLAIN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Prediction:
    """One image's class and its probabilities, in class order."""

    image: str
    prediction: str
    probabilities: tuple[float, ...]


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files given, and the images in and below the folders given, in sorted order.

    A folder is listed as for training (`list_images`); a warning says what is left out in it.

    Raises:
        DpmixError: a path that does not exist, no image at all, or as `list_images` raises.
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
    """Refuse a file that predictions can't or should not go to, before any work is done.

    Raises:
        DpmixError: a name that says neither CSV nor JSON, a folder that is not there or can't be
            written to, or a file that is there already.
    """
    if output.suffix not in (".csv", ".json"):
        raise DpmixError(f"output is '{output}'; expected a name ending in .csv or .json")
    if output.is_dir() or not os.access(output.absolute().parent, os.W_OK):
        raise DpmixError(
            f"output '{output}' can't be written; give a file in a folder that exists and that you "
            "may write to"
        )
    if output.exists() and not overwrite:
        raise DpmixError(
            f"output '{output}' is there already; give another --output, or --overwrite"
        )


def predictions(
    saved: SavedRun,
    files: Sequence[Path],
    device: torch.device,
    skipped: dict[Path, str] | None = None,
) -> Iterator[Prediction]:
    """Classify `files` in order, a bounded batch at a time.

    Args:
        saved: the model.
        files: as `image_files` lists them.
        device: where the model is.
        skipped: as in `decode_files`.

    Raises:
        DpmixError: a model whose probabilities are not finite, and as `decode_files` raises.
    """
    names, position = saved.input.class_names, 0
    reading = saved.input.reading
    for pixels in decode_files(files, saved.input.image_shape, reading, skipped=skipped):
        with torch.inference_mode():
            scores = saved.model(saved.normalization(pixels.to(device))).float().softmax(dim=1)
        for row in scores.cpu().tolist():
            while skipped and files[position] in skipped:
                position += 1
            if not all(map(math.isfinite, row)):
                raise DpmixError(
                    f"the model's probabilities of '{files[position]}' are not finite, so it names "
                    "no class: its training diverged; train again with a lower --learning-rate"
                )
            best = max(range(len(row)), key=row.__getitem__)
            yield Prediction(written_path(files[position]), names[best], tuple(row))
            position += 1


def written_path(path: Path) -> str:
    """`path` as CSV and JSON have it.

    A name with control characters, or with bytes that are not UTF-8, can't stand in a text file:
    its path is written as a `file:` URI, which holds such bytes as %XX. No other path begins so,
    since `Path` has no double slash.
    """
    return path.absolute().as_uri() if _NOT_PLAIN.search(str(path)) else str(path)


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
