"""A run as far as it may be handed out: its model, and the statement and card of that model.

Guarantee: the statement is that of the weights and settings beside it, to the hash.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

from dpmix.data.pixels import Reading
from dpmix.errors import DpmixError
from dpmix.reporting.page.plain_words import claimed_epsilon
from dpmix.reporting.statement_model import Statement, read_statement
from dpmix.saved import SavedRun, load_run
from dpmix.training.run_folder import RunFolder
from dpmix.verify import bytes_of, expect_hash

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
