"""Whether what the runs of a sweep share was the same for all of them."""

import warnings
from collections import defaultdict
from pathlib import Path

from dpmix.config import Config
from dpmix.experiments.sweep_file import SEED, Cell
from dpmix.reporting.statement_model import read_statement
from dpmix.training.json_text import to_json
from dpmix.training.run_folder import RunFolder

# In the order in which they are told; the first that changed is told alone.
_TOLD = {
    "images": "the images changed between runs of this sweep",
    "pool": "the public pool changed between runs of this sweep",
    "settings": "runs of this sweep that differ in their seeds alone differ in what was left to "
    "the defaults, as another version or another machine chose it",
}


def tell_of_changes(cells: tuple[Cell, ...], roots: dict[str, Path]) -> None:
    """Warn if runs with the same settings read other images or another pool, or chose otherwise.

    Args:
        cells: the sweep's runs.
        roots: the folder of each, by its name; runs that are not there are left out.
    """
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell in cells:
        folder = RunFolder(roots[cell.name])
        if not (folder.data_hash.is_file() and folder.privacy.is_file()):
            continue
        train, test = folder.data_hash.read_text(encoding="utf-8").split()
        data = cell.config.data.model_dump_json()
        seen["images", data].add(train)
        # The same images are tested on, however many there are to train on.
        tested = cell.config.data.model_dump_json(exclude={"train_images"})
        seen["images", f"test {tested}"].add(test)
        if (pool := read_statement(folder.privacy).public_inputs.pool) is not None:
            views = {name: value for name, value in cell.config.views if name.startswith("pool")}
            seen["pool", f"{data} {views}"].add(pool.contents_sha256)
        given = {name: value for name, value in cell.settings.items() if name != SEED}
        chosen = Config.load(folder.config).model_dump(mode="json", exclude={"run"})
        seen["settings", f"{cell.base} {to_json(given)}"].add(to_json(chosen))
    changed = {what for (what, _), found in seen.items() if len(found) > 1}
    for what, said in _TOLD.items():
        if what in changed:
            warnings.warn(
                f"{said}, which are not to be compared; give another --output to run all of them "
                "as things are now",
                stacklevel=2,
            )
            return
