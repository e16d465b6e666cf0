"""docs/settings.md is complete, since a hook of MkDocs makes it from the command line."""

import importlib.util
import re
from pathlib import Path

import pytest

HOOKS = Path(__file__).parents[2] / "docs" / "hooks.py"

pytestmark = pytest.mark.usefixtures("unchecked")


def test_the_reference_has_every_flag_of_train(dpmix):
    spec = importlib.util.spec_from_file_location("hooks", HOOKS)
    spec.loader.exec_module(hooks := importlib.util.module_from_spec(spec))
    page = hooks.on_page_markdown("before <!-- settings -->")
    flags = set(re.findall(r"--[a-z][a-z-]+", dpmix("train", "--help")[1])) - {"--help"}
    assert len(flags) > 60 and not [flag for flag in flags if f"`{flag}`" not in page]
