"""What an error says of another library's error and of a misspelt name; what is out of memory."""

import pytest

from dpmix.errors import DpmixError, nearest, one_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\n  two three"), "one two three"),
        (KeyError(101), "KeyError 101"),
        (EOFError(), "EOFError "),
        (OSError("a \x1b[1mbold\x1b[0m claim"), "a bold claim"),
        (ValueError("word " * 100), "word " * 39 + "..."),
    ],
)
def test_another_librarys_error_becomes_a_part_of_a_line(error, said):
    assert one_line(error) == said.strip()


def test_the_nearest_name_comes_with_all_of_a_few_names_and_the_number_of_many():
    few = ["mix-self", "none", "none"]
    assert nearest("mixself", few) == "did you mean 'mix-self'? known: mix-self, none"
    assert nearest("xyz", few) == "known: mix-self, none"
    many = [f"class-{i}" for i in range(80)]
    assert nearest("class7", many) == "did you mean 'class-7'? expected one of 80"
    assert nearest("xyz", many) == "expected one of 80"


def test_what_a_terminal_would_obey_is_written_as_an_escape():
    assert str(DpmixError("a \x1b[31mred\nline\u2028")) == r"a \x1b[31mred" + "\n" + r"line\u2028"
