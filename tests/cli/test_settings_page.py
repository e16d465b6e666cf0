"""docs/settings.md is complete, since a hook of MkDocs makes it from the command line."""

import importlib.util
import re
from pathlib import Path

import pytest
import typer

from dpmix.cli.app import COMMANDS, application

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def test_the_reference_has_every_flag_of_train(hooks, dpmix):
    page = hooks.on_page_markdown("before <!-- settings -->")
    flags = set(re.findall(r"--[a-z][a-z-]+", dpmix("train", "--help")[1])) - {"--help"}
    assert len(flags) > 60 and not [flag for flag in flags if f"`{flag}`" not in page]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_a_page_gives_a_command_exists(hooks, page):
    known = {
        name: {"--help"}.union(*([*one.opts, *one.secondary_opts] for one in command.params))
        for name, command in hooks.every_command(typer.main.get_command(application(COMMANDS)))
    }
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for name, rest in re.findall(r"\b(dpmix (?:pool |recipes )?\w+)([^\n`#]*)", text):
        given = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", rest))
        assert given <= known.get(name, given), name
