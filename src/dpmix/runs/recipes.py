"""The recipes that come with the package: one a cell of the paper's tables."""

from pathlib import Path

from dpmix.errors import DpmixError, nearest
from dpmix.runs.config import Config

# YAML files that come with the package, by name; a user's own go before them, by path.


def shipped_names(folder: Path) -> list[str]:
    """Names of the files in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def shipped_path(name: str, folder: Path, what: str, hint: str = "") -> Path:
    """The file that `name` is the path of, or one of `folder` of that name.

    Args:
        name: as the user gave it.
        folder: of the files that come along.
        what: they are, for errors.
        hint: what shows them.

    Raises:
        DpmixError: neither.
    """
    path = Path(name).expanduser()
    # A path goes first: a user's own file is never hidden by ours.
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    known = shipped_names(folder)
    if name not in known:
        raise DpmixError(
            f"no {what} '{name}': {nearest(name, known)}, or the path of a YAML file{hint}"
        )
    return folder / f"{name}.yaml"


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
