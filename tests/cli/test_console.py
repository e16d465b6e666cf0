"""Lines that a command prints."""

import pytest

from dpmix.cli.progress import stdout


def test_a_path_in_a_file_stays_in_one_piece(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    said = "to go on: dpmix train --resume " + "/".join(["runs"] * 30)
    stdout().print(said)
    assert capsys.readouterr().out == said + "\n"


def test_lines_are_folded_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    stdout().print("word " * 20)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40


def test_text_is_printed_as_it_is(capsys):
    stdout().print("scans :x: [bold]")
    assert capsys.readouterr().out == "scans :x: [bold]\n"


@pytest.mark.usefixtures("unchecked")
def test_a_terminal_obeys_no_files_name(dpmix, image_root):
    (image_root / "train" / "\x1b]0;title\x07 [red]:x:.png").write_bytes(b"-")
    _, _, err = dpmix("train", "--data", image_root, "--model", "cnn-small", "--dry-run")
    assert "\x1b" not in err and "\x07" not in err
    assert r"such as '\x1b]0;title\x07 [red]:x:.png'" in err
