"""Lists of files and columns, and the groups of images that they make."""

from dataclasses import replace

import pytest
import torch

from dpmix.data.file_list import read_file_list, rows_of
from dpmix.data.source import Subset, TensorSource
from dpmix.data.subgroups import load_subgroups
from dpmix.errors import DpmixError

NAMES = ("test/a/1.png", "test/a/2.png", "test/b/3.png", "test/b/4.png")


def images(names=NAMES):
    pixels = torch.zeros(len(NAMES), 1, 2, 2, dtype=torch.uint8)
    return TensorSource(pixels, torch.tensor([0, 0, 1, 1]), ("a", "b"), names)


@pytest.fixture
def listed(tmp_path):
    """Write a list next to a data folder; return both."""

    def write(text):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "list.csv").write_text(text, encoding="utf-8")
        return str(tmp_path / "list.csv"), str(tmp_path / "data")

    return write


def test_a_row_has_its_line_its_file_and_its_other_columns(listed, tmp_path):
    path, root = (tmp_path / "list.csv", tmp_path / "data")
    listed("sex,file,\nF, ./test\\a\\1.png ,x\n,data/test/b/3.png,\n")
    rows = read_file_list(path, root, "subgroups")
    assert [(row.line, row.name, dict(row.values)) for row in rows] == [
        (2, "test/a/1.png", {"sex": "F"}), (3, "test/b/3.png", {"sex": ""}),
    ]  # fmt: skip
    assert [row and row.line for row in rows_of(rows, NAMES, "it")] == [2, None, 3, None]
    assert read_file_list(path, root, "labels", ["sex"]) == rows


def test_groups_are_those_of_the_evaluated_images_and_the_others_are_counted(listed):
    path, root = listed(
        "file,sex,scanner\n1.png,F,old\ntest/b/3.png,F,\ntest/b/4.png,M,old\ntrain/a/9.png,X,new\n"
    )
    found = load_subgroups(path, root, images())
    assert found.not_listed == 1
    groups = {
        column: {name: rows.tolist() for name, rows in found.rows(column).items()}
        for column in found.columns
    }
    assert groups == {
        "sex": {"F": [0, 2], "M": [3]},
        "scanner": {"no value": [2], "old": [0, 3]},
    }
    part = Subset.of(images(), torch.tensor([3, 1]))
    assert load_subgroups(path, root, part).columns["sex"] == ("M", None)
    assert load_subgroups(None, root, part) is None


@pytest.mark.parametrize(("text", "message"), [
    ("file\n1.png\n", "has the columns file; expected file and one or more others"),
    ("name,sex\n1.png,F\n", "has the columns name, sex; expected file and one or more"),
    ("file,sex\n", "lists no file"),
    ("file,sex,sex\n1.png,F,M\n", "has the column 'sex' twice; expected one of each name"),
    ("file,sex\n1.png\n", "line 2 has another number of cells than the 2 columns"),
    ("file,sex\n1.png,F,old\n", "line 2 has another number of cells than the 2 columns"),
    ("file,sex\n9.png,F\n", "lists none of the 4 images to evaluate on, such as 'test/a/1.png'"),
    ("file,sex\n1.png,F\n1.png,M\n", "lines 2 and 3 say different things of '1.png'"),
    ("file,sex\n1.png,F\ntest/a/1.png,M\n", "lines 3 and 2 say different things of '1.png'"),
    ("file,sex\n1.png,\x07\n", "holds a character that can't be printed"),
])  # fmt: skip
def test_lists_that_make_no_groups_are_refused(listed, text, message):
    path, root = listed(text)
    with pytest.raises(DpmixError, match=message):
        load_subgroups(path, root, images())


def test_a_column_of_measurements_and_images_without_names_are_refused(listed):
    many = tuple(f"test/a/{place}.png" for place in range(60))
    pixels = torch.zeros(60, 1, 2, 2, dtype=torch.uint8)
    source = TensorSource(pixels, torch.arange(60) % 2, ("a", "b"), many)
    path, root = listed("file,days\n" + "".join(f"{name},{i}\n" for i, name in enumerate(many)))
    with pytest.raises(
        DpmixError, match="'days' has 60 values; expected 50 or fewer: write ranges"
    ):
        load_subgroups(path, root, source)
    with pytest.raises(DpmixError, match="images have no file names; expected a folder of images"):
        load_subgroups(path, root, images(None))


def test_a_group_without_a_known_label_is_refused(listed):
    path, root = listed("file,sex\n1.png,F\n2.png,M\n")
    labels = torch.tensor([[1, 0], [-1, -1], [0, 1], [1, 1]])
    known = replace(images(), labels=labels)
    with pytest.raises(DpmixError, match="no label is known of the evaluated images of sex 'M'"):
        load_subgroups(path, root, known)


def test_a_bare_name_of_several_images_is_refused(listed):
    path, root = listed("file,sex\n1.png,F\n")
    twice = ("test/a/1.png", "test/b/1.png", "test/b/3.png", "test/b/4.png")
    with pytest.raises(DpmixError, match="without its folder, and 2 images have that name"):
        load_subgroups(path, root, images(twice))
