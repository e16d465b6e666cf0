"""A folder that appears whole or not at all, and takes the place of nothing but its like."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from dpmix.data.image import Reading
from dpmix.errors import DpmixError
from dpmix.reports.page import claimed_epsilon
from dpmix.reports.statement import Statement
from dpmix.reports.statement import read_statement
from dpmix.runs.load import SavedRun
from dpmix.runs.load import load_run
from dpmix.runs.folder import RunFolder
from dpmix.reports.verify import bytes_of
from dpmix.reports.verify import expect_hash
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from dpmix.errors import DpmixError



# A run as far as it may be handed out: its model, and the statement and card of that model.
#
# Guarantee: the statement is that of the weights and settings beside it, to the hash.


_CUT = "scaled until they cover {size} (bicubic) and cut to their centre"


_FIT: dict[Reading, str] = {
    1: f"other sizes are first {_CUT}; orientation tags are ignored",
    2: f"pictures are first turned upright by their orientation tags; other sizes are then {_CUT}, "
    "or where width / height differs by more than a tenth scaled until all is inside, with the "
    "border pixels repeated around it",
}


"""How pictures become the input, by the rule that the run was trained by."""


@dataclass(frozen=True)
class ReleasedRun:
    """What a run hands out.

    Attributes:
        saved: the model, on the CPU, and what is needed to use it.
        weights: its weights' file, as bytes.
        statement: the guarantee.
        statement_text: `privacy.json`, as it was written.
        card: `MODEL_CARD.md`.
    """

    saved: SavedRun
    weights: bytes
    statement: Statement
    statement_text: str
    card: str

    @property
    def input(self) -> str:
        """What the exported network takes, for people."""
        channels, height, width = self.saved.input.image_shape
        colours = "grey" if channels == 1 else "RGB"
        return (
            f"images: uint8 [batch, {channels}, {height}, {width}], {colours}, 0..255, not "
            f"normalised; {_FIT[self.saved.input.reading].format(size=f'{height} x {width}')}"
        )

    @property
    def output(self) -> str:
        """What it gives, for people."""
        count = len(self.saved.input.class_names)
        return f"logits: float32 [batch, {count}], in the order of the class names; no softmax"


def read_released(root: Path) -> ReleasedRun:
    """Read the run at `root`; a run that is not complete is taken as it is, with a warning.

    Raises:
        DpmixError: no run, none with a model yet, or files that do not belong together.
    """
    folder = RunFolder(root)
    folder.refuse_if_missing(folder.config)
    statement = read_statement(folder.privacy)
    expect_hash(folder.model, statement.weights_sha256)
    expect_hash(folder.config, statement.config_sha256)
    card = bytes_of(folder.card).decode(errors="replace")
    if statement.guarantee not in card:
        raise DpmixError(
            f"'{folder.card}' does not hold the guarantee of '{folder.privacy}'; restore the card "
            "that the run wrote"
        )
    if not statement.complete:
        warnings.warn(
            f"the run in '{root}' is not complete: this is its model after {statement.steps} of "
            f"{statement.planned_steps} steps; its epsilon is {claimed_epsilon(statement)}",
            stacklevel=2,
        )
    return ReleasedRun(
        saved=load_run(root, "cpu"),
        weights=bytes_of(folder.model),
        statement=statement,
        statement_text=bytes_of(folder.privacy).decode(),
        card=card,
    )


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
