import pytest
from dpmix.runs.released_run import refuse_if_taken, write_folder

from dpmix.errors import DpmixError

FILES = frozenset({"a", "b"})


def fill(*names):
    def write(folder):
        for name in names:
            (folder / name).write_text("new")
        return 0.5

    return write


def test_a_folder_appears_whole_and_its_parents_with_it(tmp_path):
    assert write_folder(tmp_path / "x" / "out", fill("a", "b")) == 0.5
    assert {path.name for path in (tmp_path / "x" / "out").iterdir()} == {"a", "b"}
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["out"]


def test_an_earlier_folder_is_replaced_whole(tmp_path):
    write_folder(tmp_path / "out", fill("a"))
    write_folder(tmp_path / "out", fill("b"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]


@pytest.mark.parametrize("error", [DpmixError("no"), KeyboardInterrupt(), OSError(28, "full")])
def test_what_fails_leaves_the_earlier_folder_as_it_was(tmp_path, error):
    write_folder(tmp_path / "out", fill("a"))

    def fails(folder):
        (folder / "b").write_text("half")
        raise error

    expected = DpmixError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_folder(tmp_path / "out", fails)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_only_an_earlier_export_may_be_replaced(tmp_path):
    out = tmp_path / "out"
    refuse_if_taken(out, False, FILES)
    out.mkdir()
    refuse_if_taken(out, False, FILES)
    (out / "a").touch()
    with pytest.raises(DpmixError, match="is there already"):
        refuse_if_taken(out, False, FILES)
    refuse_if_taken(out, True, FILES)
    (out / "thesis.tex").touch()
    with pytest.raises(DpmixError, match="holds something else"):
        refuse_if_taken(out, True, FILES)
    with pytest.raises(DpmixError, match="holds something else"):
        refuse_if_taken(out / "thesis.tex", True, FILES)
