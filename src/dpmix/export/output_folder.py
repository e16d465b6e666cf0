"""A folder that appears whole or not at all, and takes the place of nothing but its like."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dpmix.errors import DpmixError


def refuse_if_taken(output: Path, overwrite: bool, files: frozenset[str]) -> None:
    """Refuse a folder that may not be replaced, before any work is done.

    Args:
        output: where the folder is to be.
        overwrite: whether an earlier one may be replaced.
        files: all that an earlier one can hold.

    Raises:
        DpmixError: something is there, or (with `overwrite`) something else.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise DpmixError(
            f"output '{output}' is there already; give another --output, or --overwrite"
        )
    if not output.is_dir() or not {path.name for path in output.iterdir()} <= files:
        raise DpmixError(
            f"--overwrite replaces an earlier export, but '{output}' holds something else; give "
            "another --output"
        )


def write_folder(output: Path, fill: Callable[[Path], float]) -> float:
    """Let `fill` write into a folder aside, then put that in the place of `output`.

    Returns:
        What `fill` returned.

    Raises:
        DpmixError: the disk is full, the folder read-only, or the like; `output` is as it was.
    """
    aside, old = (
        output.with_name(f".{output.name}.{os.getpid()}.{end}") for end in ("part", "old")
    )
    try:
        aside.mkdir(parents=True)
        result = fill(aside)
        if output.exists():
            output.replace(old)
        aside.replace(output)
    except OSError as error:
        raise DpmixError(
            f"cannot write '{output}': {error.strerror or error}; check the folder and the space, "
            "or give another --output"
        ) from None
    finally:
        if old.exists() and not output.exists():
            old.replace(output)
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)
    return result
