"""A recipe on disk: a YAML file of sections, which may inherit from another."""

from pathlib import Path
from typing import Any

from dpmix.errors import DpmixError
from dpmix.yaml_file import read_mapping

Tree = dict[str, dict[str, Any]]


def read_recipe(path: Path, inheriting: tuple[Path, ...] = ()) -> Tree:
    """Read a YAML recipe into sections of leaves, without judging the values.

    `base: OTHER.yaml`, relative to the recipe's own folder, inherits what the recipe does not say.

    Args:
        path: of the recipe.
        inheriting: recipes that inherit from this one.

    Raises:
        DpmixError: the file can't be read, is not YAML, is not a mapping of known sections, or
            inherits from itself.
    """
    if path.resolve() in inheriting:
        raise DpmixError(f"recipe '{path}' inherits from itself; take out one 'base'")
    tree, base = _sections_and_base(path)
    if base is None:
        return tree
    inherited = read_recipe(path.parent / base, (*inheriting, path.resolve()))
    drop_alternatives(inherited, set(tree.get("privacy", {})))
    return {name: {**inherited.get(name, {}), **tree.get(name, {})} for name in inherited | tree}


def _sections_and_base(path: Path) -> tuple[Tree, str | None]:
    tree = read_mapping(path, "recipe")
    base = tree.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise DpmixError(f"recipe '{path}': base is {base!r}; expected the name of a YAML file")
    if not all(part is None or isinstance(part, dict) for part in tree.values()):
        raise DpmixError(
            f"recipe '{path}' must map sections to settings, such as 'privacy: {{epsilon: 3}}'"
        )
    return {name: part for name, part in tree.items() if part is not None}, base


def all_spent(section: dict[str, Any], more: Any) -> Any:
    """What a recipe spent and `more`: a release that was made is never uncounted by another."""
    before = section.get("spent") or ()
    if not isinstance(before, (list, tuple)) or not isinstance(more, (list, tuple)):
        return more
    return [*before, *(path for path in more if path not in before)]


def drop_alternatives(tree: Tree, given: set[str]) -> None:
    """Take out of a recipe what a setting given beside it says in another way."""
    section = tree.get("privacy", {})
    batch, rate = {"expected_batch_size"}, {"sampling_rate", "denominator"}
    for mine, others in (
        ({"steps"}, {"epochs"}),
        ({"epochs"}, {"steps"}),
        (batch, rate),
        (rate, batch),
    ):
        if given & mine:
            for name in others - given:
                section.pop(name, None)
    if given & {"trainable", "fresh_views"}:
        tree.get("features", {}).pop("cache_views", None)
