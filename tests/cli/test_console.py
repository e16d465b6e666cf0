"""Lines that a command prints."""

from dpmix.cli.console import stdout


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
