"""`export_run`: a run's folder in, a folder in another form out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from dpmix.files import write_text
from dpmix.errors import DpmixError
from dpmix.errors import nearest
from dpmix.runs import graph_files as onnx_file
from dpmix.runs import graph_files as torch_export_file
from dpmix.runs.hub_folder import write_hub_folder
from dpmix.runs.released_run import refuse_if_taken
from dpmix.runs.released_run import write_folder
from dpmix.runs.released_run import ReleasedRun
from dpmix.runs.released_run import read_released



STATEMENT, CARD = "privacy.json", "MODEL_CARD.md"


@dataclass(frozen=True)
class _Format:
    """A form: the files that it writes beside the statement, and what writes them."""

    write: Callable[[ReleasedRun, Path], float]
    files: tuple[str, ...]


FORMATS: dict[str, _Format] = {
    "onnx": _Format(onnx_file.write_onnx, (onnx_file.NAME, CARD)),
    "torch-export": _Format(torch_export_file.write_torch_export, (torch_export_file.NAME, CARD)),
    "hub": _Format(write_hub_folder, ("model.safetensors", "config.json", "README.md")),
}


"""name -> form; a new one is one file and one line here."""


_ALL_FILES = frozenset({STATEMENT, *(name for form in FORMATS.values() for name in form.files)})


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: by name.
        guarantee: of the model, in one sentence.
        difference: the largest difference of its logits from the run's.
    """

    files: tuple[str, ...]
    guarantee: str
    difference: float


def export_run(root: Path, form: str, output: Path, overwrite: bool = False) -> Exported:
    """Write the model of the run at `root` into the folder `output`, with statement and card.

    Args:
        root: the run's folder.
        form: of `FORMATS`.
        output: the folder to make.
        overwrite: replace an earlier export.

    Raises:
        DpmixError: no such form, no run, an output that is taken, or a model that can't be
            exported or then answers differently; `output` is as it was.
    """
    if form not in FORMATS:
        raise DpmixError(f"format is '{form}': {nearest(form, FORMATS)}")
    refuse_if_taken(output, overwrite, _ALL_FILES)
    run, chosen = read_released(root), FORMATS[form]

    def fill(folder: Path) -> float:
        difference = chosen.write(run, folder)
        write_text(folder / STATEMENT, run.statement_text)
        if CARD in chosen.files:
            write_text(folder / CARD, run.card)
        return difference

    difference = write_folder(output, fill)
    return Exported((*chosen.files, STATEMENT), run.statement.guarantee, difference)
