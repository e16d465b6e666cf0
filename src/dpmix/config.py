"""One typed, validated tree of settings: a recipe is a YAML file of it, a flag is a leaf of it.

Leaf names are unique across sections, so that every leaf is also a command-line flag and a keyword
of `dpmix.fit` (`tests/test_config.py`).
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dpmix.data.load import public_name
from dpmix.errors import DpmixError, nearest
from dpmix.recipe_file import all_spent, drop_alternatives, read_recipe
from dpmix.settings import (
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
