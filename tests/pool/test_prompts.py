"""Class names to folders and prompts."""

import pytest

from dpmix.errors import DpmixError
from dpmix.pool.prompts import (
    TEMPLATES,
    PoolClass,
    as_classes,
    read_classes,
    readable,
    template_text,
)


def test_names_become_words():
    names = ("AnnualCrop", "001.ak47", "american_bulldog", "Egyptian cat", "7")
    words = ["annual crop", "ak47", "american bulldog", "Egyptian cat", "7"]
    assert [readable(name) for name in names] == words


def test_every_template_of_the_list_has_a_place_for_the_class():
    for name, text in TEMPLATES.items():
        assert template_text(name) == text
        assert "red panda" in PoolClass("x", "red panda").prompt(text)
    own = template_text("a {nice} {class}, {class}")
    assert PoolClass("x", "cat").prompt(own) == "a {nice} cat, cat"
    with pytest.raises(DpmixError, match=r"has no \{class\}.*did you mean 'photo'"):
        template_text("photos")


def test_a_file_of_classes_has_names_phrases_and_comments(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("# birds\ncrane: a crane, the bird\n\nAnnualCrop\n", encoding="utf-8")
    assert read_classes(path) == (
        PoolClass("crane", "a crane, the bird"),
        PoolClass("AnnualCrop", "annual crop"),
    )
    path.write_text("# nothing\n")
    with pytest.raises(DpmixError, match="no class in"):
        read_classes(path)
    with pytest.raises(DpmixError, match="cannot read classes"):
        read_classes(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no class in 'the class names'"),
        (("cat", "Cat"), "hold 'cat' and 'Cat', which name the same folder"),
        (("a/b",), "class name 'a/b' can't name a folder .*'plain-name: a b'"),
        *(((name,), "can't name a folder") for name in ("", " cat", "cat ", ".cat", "a\0b", "a?")),
    ],
)
def test_names_that_can_be_no_folders_are_refused(names, said):
    with pytest.raises(DpmixError, match=said):
        as_classes(names)
