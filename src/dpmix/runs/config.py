"""`Config`: the typed, validated settings of a run. A recipe is a YAML file of it.

Every setting is also a command-line flag and a keyword of `dpmix.fit`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dpmix.data.named import public_name
from dpmix.errors import DpmixError, explain, nearest
from dpmix.runs.recipes import Tree, merge, read_recipe
from dpmix.runs.settings import (
    LEAVES,
    SECTIONS,
    CacheConfig,
    DataConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    PrivacyConfig,
    RunConfig,
    Section,
    ViewConfig,
    places,
)
from dpmix.views.spec import ViewSpec


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
    def load(cls, recipe: str | Path | None = None, **leaves: Any) -> "Config":
        """Read a recipe, then set single settings by name; the others have their defaults.

        Args:
            recipe: the path of a YAML file with any part of the settings, or a recipe's name.
            **leaves: settings by name, such as `epsilon=3`; None leaves the recipe's value.
        """
        where = f" in recipe '{recipe}'" if recipe else ""
        return cls.from_tree(read_recipe(recipe) if recipe else {}, where, **leaves)

    @classmethod
    def from_tree(cls, tree: Tree, where: str = "", **leaves: Any) -> "Config":
        """As `load`, from settings by section; `where` names their source for errors."""
        tree = {name: part for name, part in tree.items() if part is not None}
        given: Tree = {}
        for name, value in leaves.items():
            if name not in LEAVES:
                raise DpmixError(
                    f"unknown setting '{name}': {nearest(name, LEAVES)}; see dpmix train --help"
                )
            if value is not None:
                given.setdefault(LEAVES[name], {})[name] = value
        before, more = (part.get("privacy", {}).get("prior_releases") for part in (tree, given))
        if before and more is not None:
            given["privacy"]["prior_releases"] = all_releases(before, more)
        try:
            return cls.model_validate(merge(tree, given))
        except ValidationError as error:
            raise DpmixError(_explain(error, where)) from None

    def require_no_selection(self) -> "Config":
        """These settings, or a DpmixError where they are of a run of a private selection.

        The epsilon of such a run rests on the other runs being secret.
        """
        if self.privacy.expected_runs is not None:
            raise DpmixError(
                f"expected_runs is {self.privacy.expected_runs:g}, which only dpmix sweep "
                "--private-selection can keep true; take it out of the recipe"
            )
        return self

    def view_spec(self, flip: bool) -> ViewSpec:
        """The views; `flip` holds where the user did not choose."""
        return ViewSpec.from_settings(self.views.model_dump(), flip=flip)

    def published(self) -> dict[str, dict[str, Any]]:
        """The sections but `run` as JSON values, without a path; the data by its public name."""
        sections = self.model_dump(mode="json", exclude={"run"})
        shown = {
            section: {leaf: v for leaf, v in (leaves or {}).items() if leaf not in places("path")}
            for section, leaves in sections.items()
        }
        shown["data"]["data"] = public_name(self.data.data)
        return shown

    def to_yaml(self) -> str:
        """All settings, readable by `load`, but not where to write: that would be this run."""
        tree = self.model_dump(mode="json", exclude={"run": {"output", "overwrite"}})
        return yaml.safe_dump(tree, sort_keys=False)


def all_releases(*given: Iterable[str]) -> list[str]:
    """The reports of several places together: a release that was made stays counted."""
    return list(dict.fromkeys(path for paths in given for path in paths))


def _explain(error: ValidationError, where: str) -> str:
    """The first problem in one line, with the nearest name where the name is unknown."""
    problem = error.errors()[0]
    if problem["type"] != "extra_forbidden":
        return explain(error, where)
    *parents, leaf = (str(part) for part in problem["loc"])
    section = SECTIONS.get(parents[0]) if parents else None
    known = section.model_fields if section else SECTIONS
    return f"unknown field '{'.'.join([*parents, leaf])}'{where}: {nearest(leaf, known)}"
