"""One typed, validated tree of settings: a recipe is a YAML file of it, a flag is a leaf of it.

Leaf names are unique across sections, so that every leaf is also a command-line flag and a keyword
of `dpmix.fit` (`tests/test_config.py`).
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dpmix.data.named import public_name
from dpmix.errors import DpmixError, nearest, one_line
from dpmix.runs.settings import (
    PATHS,
    CacheConfig,
    DataConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    PrivacyConfig,
    RunConfig,
    Section,
    ViewConfig,
)
from dpmix.views.spec import ViewSpec

# A YAML file of the user's, as a mapping: nothing in it is executed, however it is written.


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read the mapping in a YAML file; an empty file is an empty one.

    Args:
        path: of the file.
        what: it is, for errors.

    Raises:
        DpmixError: the file can't be read, is not YAML or is no mapping from names.
    """
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


# A recipe on disk: a YAML file of sections, which may inherit from another.


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


class Config(Section):
    """All settings of a run."""

    data: DataConfig = DataConfig()
    views: ViewConfig = ViewConfig()
    model: ModelConfig = ModelConfig()
    features: CacheConfig = CacheConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    run: RunConfig = RunConfig()
    input: InputConfig | None = None

    @classmethod
    def load(cls, recipe: Path | None = None, **leaves: Any) -> "Config":
        """Read a recipe, then set single leaves by name; what is in neither has its default.

        Args:
            recipe: YAML file with any part of the tree.
            leaves: settings by leaf name, such as `epsilon=3`; None leaves the recipe's value.

        Raises:
            DpmixError: an unreadable file, an unknown field or a value that does not fit.
        """
        return cls.of(read_recipe(recipe) if recipe else {}, recipe, **leaves)

    @classmethod
    def of(
        cls, tree: dict[str, dict[str, Any]], recipe: Path | None = None, **leaves: Any
    ) -> "Config":
        """The same from the sections of a recipe, which `recipe` names in errors.

        Raises:
            DpmixError: an unknown field or a value that does not fit.
        """
        drop_alternatives(tree, {name for name, value in leaves.items() if value is not None})
        for name, value in leaves.items():
            if name not in LEAVES:
                raise DpmixError(
                    f"unknown setting '{name}': {nearest(name, LEAVES)}; dpmix train --help has "
                    "them all"
                )
            if value is not None:
                section = tree.setdefault(LEAVES[name], {})
                section[name] = all_spent(section, value) if name == "spent" else value
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise DpmixError(_explain(error, recipe)) from None

    def by_itself(self) -> "Config":
        """These settings, of a run that is not one of a private selection.

        Raises:
            DpmixError: they say that it is. Only `dpmix sweep --private-selection` keeps the other
                runs secret, which such a run's epsilon rests on.
        """
        if self.privacy.expected_runs is not None:
            raise DpmixError(
                f"expected_runs is {self.privacy.expected_runs:g}, which only dpmix sweep "
                "--private-selection can keep true; take it out of the recipe"
            )
        return self

    def view_spec(self, flip: bool) -> ViewSpec:
        """The views; `flip` is what suits the data where the user did not say."""
        views = self.views
        elsewhere = {"flip", "pool", "pool_labels", "pool_unmapped", "pool_role", "pretrain_epochs"}
        return ViewSpec(
            flip=flip if views.flip is None else views.flip,
            pool_role="mix" if views.pool_role == "pretrain" else views.pool_role,
            **views.model_dump(exclude=elsewhere),
        )

    def published(self) -> dict[str, dict[str, Any]]:
        """The sections but `run` as JSON values, without a path; the data by its public name."""
        sections = self.model_dump(mode="json", exclude={"run"})
        shown = {
            section: {leaf: value for leaf, value in (leaves or {}).items() if leaf not in PATHS}
            for section, leaves in sections.items()
        }
        shown["data"]["data"] = public_name(self.data.data)
        return shown

    def to_yaml(self) -> str:
        """The whole tree, readable by `load`, but for where the run was written.

        A recipe that came with leave to overwrite would overwrite the very run that it came from.
        """
        tree = self.model_dump(mode="json", exclude={"run": {"output", "overwrite"}})
        return yaml.safe_dump(tree, sort_keys=False)


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


"""Section name -> its model."""


LEAVES: dict[str, str] = {
    leaf: name for name, section in SECTIONS.items() for leaf in section.model_fields
}


"""Leaf name -> its section's name."""


def _explain(error: ValidationError, recipe: Path | None) -> str:
    """The first problem in one line, with the nearest name where the name is unknown."""
    problem = error.errors()[0]
    where = f" in recipe '{recipe}'" if recipe else ""
    *parents, leaf = (str(part) for part in problem["loc"][:2])
    if problem["type"] == "extra_forbidden":
        section = SECTIONS.get(parents[0]) if parents else None
        known = section.model_fields if section else SECTIONS
        return f"unknown field '{'.'.join([*parents, leaf])}'{where}: {nearest(leaf, known)}"
    value = problem["input"]
    message = problem["msg"][0].lower() + problem["msg"][1:]
    if problem["type"] == "literal_error":
        message = nearest(str(value), str(problem["ctx"]["expected"]).replace("'", "").replace(
            " or ", ", ").split(", "))  # fmt: skip
    return f"{leaf} is {value!r}{where}: {message}"
