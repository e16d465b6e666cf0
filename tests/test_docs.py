"""What holds for every page: its lines are short, its words plain, and the tests it names exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
SOURCES = [*ROOT.glob("src/dpmix/**/*.py")]
DIALECT = re.compile(
    r"\b(coins|go(es|ing|ne)? on with|goes on|of its own|(is|are) told|told of|said"
    r"|so many|keep it|anew|whoever|train not|beside|what was read|bears?)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_short_lines_and_plain_words(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]
    assert not [line for line in lines if DIALECT.search(line)]


def test_help_texts_errors_and_docstrings_use_plain_words():
    strings = [
        (path.name, node.value)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [found for found in strings if DIALECT.search(found[1])]


@pytest.mark.parametrize("files", [PAGES, SOURCES], ids=["pages", "source"])
def test_every_test_that_is_named_exists(files):
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    named = set(re.findall(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)", text))
    assert named and not [name for name in named if not (ROOT / "tests" / name).is_file()]


def test_the_readme_is_a_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 120 and len(text.split()) <= 1100 and lines.index("```python") < 45
    linked = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert not [path for path in linked if not (ROOT / path).exists()]
