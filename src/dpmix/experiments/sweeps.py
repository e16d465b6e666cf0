"""The sweeps that come with the package: the questions of the paper and beyond."""

from pathlib import Path

from dpmix.errors import DpmixError, nearest

FOLDER = Path(__file__).parent / "sweeps"


def sweep_names() -> list[str]:
    """Their names, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def sweep_path(name: str) -> Path:
    """The file of a sweep, given by its path or by one of `sweep_names`.

    Raises:
        DpmixError: neither.
    """
    path = Path(name).expanduser()
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    if name not in sweep_names():
        raise DpmixError(
            f"no sweep '{name}': {nearest(name, sweep_names())}, or the path of a YAML file"
        )
    return FOLDER / f"{name}.yaml"
