"""The command line, called in this process."""

import sys

import pytest

from dpmix.cli import main


@pytest.fixture
def dpmix(monkeypatch, capsys):
    """Run the command line in this process; returns (exit status, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dpmix", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture
def flags(quick):
    return [
        part for name, value in quick.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
