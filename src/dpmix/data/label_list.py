"""A folder of images with several labels each: their files, and a CSV with one column a label."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dpmix.data.decode import EncodedImages, decode_sources
from dpmix.data.file_list import FileList, few, read_file_list
from dpmix.data.folder import (
    drawn_split,
    folder_names,
    list_images,
    refuse_linked_twice,
    warn_of_left_out,
)
from dpmix.data.image import ReadOptions
from dpmix.data.label_values import chosen_columns, label_matrix, label_number
from dpmix.data.person_rule import PersonRule
from dpmix.data.splits import Splits, judged_side, named_sides
from dpmix.errors import DpmixError

_NAMED = 5  # absent files that a message names


def listed_splits(
    root: Path,
    csv_path: Path,
    columns: tuple[str, ...],
    options: ReadOptions,
    test_fraction: float | None,
    rule: PersonRule | None = None,
) -> Splits:
    """Read the listed images in and below `root`, whatever its folders are called.

    Args:
        root: the data folder. Folders called train and test (or val) in it are the splits, as in
            `folder_splits`; otherwise one is drawn.
        csv_path: a CSV of the column `file` and one column for each label: 1, 0, and -1 or nothing
            where it is unknown.
        columns: those that are labels; empty: all but `file`.
        options: how images are read.
        test_fraction: as of `folder_splits`.
        rule: the person of every file.

    Raises:
        DpmixError: a file that is not there, listed twice with other labels, a value that is no
            label, no listed image, and as `folder_splits` and `read_file_list` raise.
    """
    names, listed = read_labels(csv_path, columns, root)
    whole = _listed_images(root, csv_path, listed)
    sides = named_sides(folder_names(root), f"data folder '{root}'")
    test = judged_side(sides, f"data folder '{root}'")
    if test_fraction is None and "train" in sides and test is not None:
        train_images, test_images = (_below(whole, side) for side in (sides["train"], test))
        if rest := len(whole) - len(train_images) - len(test_images):
            warnings.warn(f"{rest} image(s) lie in neither '{sides['train']}' nor '{test}' and are "
                          "left out", stacklevel=2)  # fmt: skip
        if not len(train_images) or not len(test_images):
            raise DpmixError(
                f"labels '{csv_path}' list no image of '{sides['train']}' or '{test}' in '{root}'; "
                "expected images of both: list them"
            )
        held_out = f"the {test} folder"
        if rule is not None:
            train_images, test_images = (
                replace(side, owners=rule.of(side.names)) for side in (train_images, test_images)
            )
    else:
        train_images, test_images, held_out = drawn_split(root, whole, test_fraction, rule)
    refuse_linked_twice(root, train_images, test_images)
    (train, judged), _ = decode_sources([train_images, test_images], names, options)
    return Splits(root.resolve().name, train, judged, flip=True, held_out=held_out)


def read_labels(
    path: Path, columns: tuple[str, ...], root: Path
) -> tuple[tuple[str, ...], FileList[tuple[int, ...]]]:
    """Read the names of the labels, and each listed file's labels; errors as of `listed_splits`."""
    there, rows = read_file_list(path, root, "labels")
    where = f"labels '{path}'"
    names = chosen_columns(there, columns, where)
    values = np.empty((len(rows), len(names)))
    for at, row in enumerate(rows):
        for column, name in enumerate(names):
            try:
                values[at, column] = label_number(row.cells[name])
            except ValueError:
                raise DpmixError(
                    f"{where}, line {row.line}: '{name}' is '{row.cells[name]}'; expected 1, 0, or "
                    "-1 (or nothing) where it is unknown: choose the label columns with "
                    "--label-column"
                ) from None
    known = label_matrix(values, names, where, lambda at: f" in line {rows[at].line}").tolist()
    labels: dict[str, tuple[int, ...]] = {}
    clash = [
        f"{row.file}, in line {row.line}"
        for row, own in zip(rows, map(tuple, known), strict=True)
        if labels.setdefault(row.name, own) != own
    ]
    if clash:
        raise DpmixError(
            f"{where}: {len(clash)} file(s) are listed twice with other labels, such as "
            f"{clash[0]}; expected one line for each image: delete the wrong one"
        )
    return tuple(names), FileList(labels, where)


def _listed_images(root: Path, csv_path: Path, listed: FileList[tuple[int, ...]]) -> EncodedImages:
    paths, others = list_images(root)
    warn_of_left_out([path for path in others if path.resolve() != csv_path.resolve()])
    names = [path.relative_to(root).as_posix() for path in paths]
    found = listed.find(names)
    if absent := listed.absent(names):
        raise DpmixError(
            f"{listed.source} name {len(absent)} file(s) that are no images in '{root}': "
            f"{few(absent, _NAMED)}; expected paths relative to that folder: correct them, or "
            "delete their lines"
        )
    kept = [i for i, labels in enumerate(found) if labels is not None]
    if left_out := len(names) - len(kept):
        example = next(n for n, labels in zip(names, found, strict=True) if labels is None)
        warnings.warn(
            f"{left_out} image(s) are not in {listed.source} and are left out, such as '{example}'",
            stacklevel=3,
        )
    labels: Int64[Tensor, "N L"] = torch.tensor([found[i] for i in kept])
    return EncodedImages(tuple(names[i] for i in kept), tuple(paths[i] for i in kept), labels)


def _below(images: EncodedImages, folder: str) -> EncodedImages:
    inside = [i for i, name in enumerate(images.names) if name.startswith(f"{folder}/")]
    return images.take(torch.tensor(inside, dtype=torch.int64))
