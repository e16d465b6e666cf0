"""The sweeps that come with the package: the questions of the paper and beyond."""

from pathlib import Path

from dpmix.experiments.shipped import shipped_names, shipped_path

FOLDER = Path(__file__).parent / "sweeps"


def sweep_names() -> list[str]:
    """Their names, sorted."""
    return shipped_names(FOLDER)


def sweep_path(name: str) -> Path:
    """The file of a sweep, given by its path or by one of `sweep_names`.

    Raises:
        DpmixError: neither.
    """
    return shipped_path(name, FOLDER, "sweep")
