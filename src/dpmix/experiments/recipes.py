"""The recipes that come with the package: one a cell of the paper's tables."""

from pathlib import Path

from dpmix.config import Config
from dpmix.errors import DpmixError, nearest

FOLDER = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Their names, sorted: NETWORK-DATA-METHOD."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe, given by its path or by one of `recipe_names`.

    Raises:
        DpmixError: neither.
    """
    path = Path(name).expanduser()
    # A path goes first: a user's own file is never hidden by ours.
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    if name not in recipe_names():
        raise DpmixError(
            f"no recipe '{name}': {nearest(name, recipe_names())}, or the path of a YAML file; "
            "`dpmix recipes list` shows them"
        )
    return FOLDER / f"{name}.yaml"


def network(name: str) -> str:
    """What a recipe trains, or trains a head on."""
    model = Config.load(recipe_path(name)).model
    return model.backbone or model.model or "the best backbone at hand"
