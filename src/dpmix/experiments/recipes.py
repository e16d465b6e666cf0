"""The recipes that come with the package: one a cell of the paper's tables."""

from pathlib import Path

from dpmix.config import Config
from dpmix.experiments.shipped import shipped_names, shipped_path

FOLDER = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Their names, sorted: NETWORK-DATA-METHOD."""
    return shipped_names(FOLDER)


def recipe_path(name: str) -> Path:
    """The file of a recipe, given by its path or by one of `recipe_names`.

    Raises:
        DpmixError: neither.
    """
    return shipped_path(name, FOLDER, "recipe", "; `dpmix recipes list` shows them")


def network(name: str) -> str:
    """What a recipe trains, or trains a head on."""
    model = Config.load(recipe_path(name)).model
    return model.backbone or model.model or "the best backbone at hand"
