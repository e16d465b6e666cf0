"""Recipes: YAML files of settings, and the paper's experiments by name.

Nothing in a file is executed, however it is written.
"""

from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from dpmix.errors import DpmixError, nearest, one_line

Tree = dict[str, dict[str, Any]]
"""Section name -> setting name -> value, as given: nothing is checked yet."""

PAPER = Path(__file__).with_name("recipes.yaml")
TEXT = "text"  # marks the recipes whose heads start at the words of their classes


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read the mapping from names in a YAML file, `what` for errors; an empty file is empty."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DpmixError(f"cannot read {what} '{path}': {error}; check the path") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a number, or a tree, too large
        raise DpmixError(f"{what} '{path}' is not valid YAML: {one_line(error)}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        raise DpmixError(f"{what} '{path}' must map names to values, such as 'name: value'")
    return tree


def is_file_name(name: str) -> bool:
    """Whether a recipe or sweep is given as a file: a user's own file is never hidden by ours."""
    return Path(name).expanduser().is_file() or name.endswith((".yaml", ".yml"))


def recipe_names() -> list[str]:
    """The names of the paper's experiments, sorted: NETWORK-DATA-METHOD, or -text-METHOD."""
    return sorted(_paper())


def read_recipe(recipe: str | Path) -> Tree:
    """The settings, by sections, of a YAML file or of one of `recipe_names`."""
    if isinstance(recipe, Path) or is_file_name(recipe):
        tree = read_mapping(Path(recipe).expanduser(), "recipe")
        tree = {name: part for name, part in tree.items() if part is not None}
        if not all(isinstance(part, dict) for part in tree.values()):
            raise DpmixError(
                f"recipe '{recipe}' must map sections to settings, such as 'privacy: {{steps: 3}}'"
            )
        return tree
    paper = _paper()
    if recipe not in paper:
        raise DpmixError(
            f"no recipe '{recipe}': {nearest(recipe, paper)}, or the path of a YAML file; "
            "`dpmix recipes list` shows them"
        )
    return paper[recipe]


def _paper() -> dict[str, Tree]:
    """Every data set x network x method, composed."""
    table = read_mapping(PAPER, "recipes")
    found = {}
    for (data, networks), method in product(table["data"].items(), table["methods"]):
        cell = {"data": {"data": data}, "views": {"method": method}}
        for network in networks:
            both = table["pairs"].get(f"{network}-{data}", {})
            parts = [table["all"], table["networks"][network], both, cell]
            found[f"{network}-{data}-{method}"] = reduce(merge, parts)
            if "backbone" in table["networks"][network]["model"]:  # it has a text tower
                text = table["text"]
                parts += [text["all"], text.get(data, {})]
                found[f"{network}-{data}-{TEXT}-{method}"] = reduce(merge, parts)
    return found


def merge(tree: Tree, later: Tree) -> Tree:
    """The settings of `tree`, where `later` does not give the same in any form.

    `steps` replaces `epochs`, for instance, and a rate a batch.
    """
    given = {leaf for part in later.values() for leaf in part}
    batch, rate = {"expected_batch_size"}, {"sampling_rate", "denominator"}
    replaced: set[str] = set()
    for these, others in (
        ({"steps"}, {"epochs"}),
        ({"epochs"}, {"steps"}),
        (batch, rate),
        (rate, batch),
        ({"trainable"}, {"cache_views", "last_blocks", "lora_rank", "head_steps"}),
        ({"fresh_views"}, {"cache_views"}),
    ):
        if given & these:
            replaced |= others - given
    kept = {
        name: {leaf: value for leaf, value in part.items() if leaf not in replaced}
        for name, part in tree.items()
    }
    return {name: {**kept.get(name, {}), **later.get(name, {})} for name in kept | later}
