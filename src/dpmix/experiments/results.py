"""What a sweep's runs came to: one tidy row a run, in a CSV that tables and plots are made from."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from dpmix.atomic_files import write_text
from dpmix.errors import DpmixError
from dpmix.experiments.sweep_file import Cell
from dpmix.reporting.run_facts import read_facts
from dpmix.training.run_folder import RunFolder

Row = dict[str, Any]
FACTS = ("accuracy", "worst_class_accuracy", "calibration_error")
"""Measured numbers that a table or a plot can show."""
VIEWS = ("base_views", "mixed_views", "public_views")
"""How many views of an example there were, of each kind."""
RESULTS = "results.csv"
BEST = "best"
"""Folder of the run that a private selection published."""
# Beside these and FACTS stands every setting that the sweep varies.
_IDENTITY = ("row", "data", "model", "method", "epsilon", "seed")
_REST = (
    "worst_class", *VIEWS, "judged_on", "images", "sigma", "sampling_rate", "steps", "examples",
    "class_accuracy", "tuned", "curve", "diverged", "private", "engine", "machine", "dpmix",
    "torch", "config", "weights_sha256",
)  # fmt: skip


def row_of(cell: Cell, root: Path) -> Row:
    """The row of a complete run in folder `root`.

    Raises:
        DpmixError: as `read_facts` raises.
    """
    run = read_facts(RunFolder(root))
    said, measured = run.statement, run.metrics
    views = run.config.view_spec(flip=False)
    return {
        "row": cell.row,
        "model": measured.model,
        "method": said.method,
        "epsilon": cell.config.privacy.epsilon,
        "seed": cell.config.run.seed,
        **cell.swept,
        "data": run.data_name,  # after what was swept, which can be whole paths
        "accuracy": measured.accuracy,
        "worst_class_accuracy": measured.worst_class.accuracy,
        "calibration_error": measured.calibration_error,
        "worst_class": measured.worst_class.name,
        **{name: getattr(views, name) for name in VIEWS},
        "judged_on": measured.judged_on,
        "images": measured.images,
        "sigma": said.noise_multiplier,
        "sampling_rate": said.sampling_rate,
        "steps": said.steps,
        "examples": said.examples,
        "class_accuracy": json.dumps(measured.class_accuracy),
        "tuned": json.dumps(cell.tuned),
        "curve": json.dumps([[point.step, point.accuracy] for point in measured.curve]),
        "diverged": measured.diverged,
        "private": said.private,
        "engine": measured.engine,
        "machine": measured.machine,
        "dpmix": said.versions["dpmix"],
        "torch": said.versions["torch"],
        "config": cell.name,
        "weights_sha256": said.weights_sha256,
    }


def write_results(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV, columns in a fixed order."""
    swept = {name: None for row in rows for name in row if name not in (*FACTS, *_REST)}
    columns = [*dict.fromkeys([*_IDENTITY, *swept]), *FACTS, *_REST]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def results_path(source: Path) -> Path:
    """The CSV of a sweep's folder, or the CSV itself.

    Raises:
        DpmixError: neither.
    """
    path = source / RESULTS if source.is_dir() else source
    if (source / BEST).is_dir() and not path.exists():
        raise DpmixError(
            f"'{source}' is of a private selection, which publishes its best run alone; see "
            f"'{source / BEST}'"
        )
    if not path.is_file():
        raise DpmixError(f"no results at '{path}'; give the folder of a `dpmix sweep`, or its CSV")
    return path
