"""YAML files that come with the package, by name; a user's own go before them, by path."""

from pathlib import Path

from dpmix.errors import DpmixError, nearest


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
