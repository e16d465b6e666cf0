"""A folder of images with several labels each: their files, and a CSV with one column a label."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dpmix.data.decode import EncodedImages, decode_sources
from dpmix.data.file_list import FileRow, bare_name, read_file_list, rows_of
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
from dpmix.data.source import ImageSource
from dpmix.data.splits import Splits, judged_side, named_sides, plain_name
from dpmix.errors import DpmixError

_REMEDY = ": correct it, or name the columns that are labels with --label-column"
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
    names, rows, labels = read_labels(csv_path, columns, root)
    whole = _listed_images(root, csv_path, rows, labels)
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


def listed_images(
    root: Path, csv_path: Path, columns: tuple[str, ...], options: ReadOptions
) -> ImageSource:
    """All listed images of a folder, to evaluate on; errors as of `listed_splits`."""
    names, rows, labels = read_labels(csv_path, columns, root)
    images = _listed_images(root, csv_path, rows, labels)
    if not len(images):
        raise DpmixError(f"labels '{csv_path}' list no image of '{root}'; expected some: list them")
    (source,), _ = decode_sources([images], names, options)
    return source


def read_labels(
    path: Path, columns: tuple[str, ...], root: Path
) -> tuple[tuple[str, ...], list[FileRow], Int64[Tensor, "R L"]]:
    """Read the names of the labels, the rows, and each row's labels; errors as `listed_splits`."""
    rows, where = read_file_list(path, root, "labels"), f"labels '{path}'"
    names = chosen_columns([*rows[0].values], columns, where)
    values = np.empty((len(rows), len(names)))
    for at, row in enumerate(rows):
        for column, name in enumerate(names):
            try:
                values[at, column] = label_number(row.values[name])
            except ValueError:
                raise DpmixError(
                    f"{where}, line {row.line}: '{name}' is {row.values[name]!r}; expected 1, 0, "
                    f"or -1 (or nothing) where it is unknown{_REMEDY}"
                ) from None
    labels = label_matrix(values, names, where, lambda at: f" in line {rows[at].line}", _REMEDY)
    # Of the labels alone: two rows of one file may differ elsewhere.
    rows = [
        replace(row, values={name: str(one) for name, one in zip(names, own, strict=True)})
        for row, own in zip(rows, labels.tolist(), strict=True)
    ]
    return tuple(names), rows, labels


def _listed_images(
    root: Path, csv_path: Path, rows: list[FileRow], labels: Int64[Tensor, "R L"]
) -> EncodedImages:
    where = f"labels '{csv_path}'"
    paths, others = list_images(root)
    warn_of_left_out([path for path in others if path.resolve() != csv_path.resolve()])
    names = [path.relative_to(root).as_posix() for path in paths]
    found = rows_of(rows, names, where)
    known = {plain_name(name) for name in names} | {bare_name(name) for name in names}
    if absent := [row.file for row in rows if row.name not in known]:
        more = ", ..." if len(absent) > _NAMED else ""
        raise DpmixError(
            f"{where} name {len(absent)} file(s) that are no images in '{root}': "
            f"{', '.join(absent[:_NAMED])}{more}; expected paths relative to that folder: correct "
            "them, or delete their lines"
        )
    kept = [i for i, row in enumerate(found) if row is not None]
    if len(kept) < len(names):
        example = next(n for n, row in zip(names, found, strict=True) if row is None)
        warnings.warn(
            f"{len(names) - len(kept)} image(s) are not in {where} and are left out, such as "
            f"'{example}'",
            stacklevel=3,
        )
    place = {row.line: at for at, row in enumerate(rows)}
    at = torch.tensor([place[row.line] for row in found if row is not None], dtype=torch.int64)
    return EncodedImages(tuple(names[i] for i in kept), tuple(paths[i] for i in kept), labels[at])


def _below(images: EncodedImages, folder: str) -> EncodedImages:
    inside = [i for i, name in enumerate(images.names) if name.startswith(f"{folder}/")]
    return images.take(torch.tensor(inside, dtype=torch.int64))
