"""Resume a stopped run: with the same plan, data, pool and model, or not at all."""

from pathlib import Path
from typing import Any

import yaml

from dpmix.data.fingerprint import data_hash
from dpmix.data.image import Progress as Counted
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError
from dpmix.reports.files import ModelFile
from dpmix.reports.statement import Statement
from dpmix.runs.build import Run, build_run
from dpmix.runs.checkpoint import Checkpoint, newest_checkpoint, newest_step
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder
from dpmix.runs.settings import LEAVES, places
from dpmix.training.distributed import ALONE, Ranks


def is_complete(root: Path, **settings: Any) -> bool:
    """Whether the run at `root` has nothing left to do."""
    folder = RunFolder(root)
    published = _published(folder)
    left = newest_step(folder.checkpoints) is not None
    complete = published is not None and published.complete and not left
    if complete:
        _refuse_changed_settings(Config.load(folder.config), Config.load(folder.config, **settings))
    return complete


def rebuild_run(
    root: Path, decoding: Counted | None = None, ranks: Ranks = ALONE, **settings: Any
) -> tuple[Run, Checkpoint]:
    """Build the stopped run at `root` as it was, and return it with its last checkpoint."""
    folder = RunFolder(root)
    if not folder.diagnostics.is_dir():
        raise DpmixError(f"'{root}' is no run folder; give the folder of the run to resume")
    if is_complete(root, **settings):
        raise DpmixError(f"the run in '{root}' is complete: there is nothing left to do")
    checkpoint = newest_checkpoint(folder.checkpoints)
    tree = yaml.safe_load(checkpoint.config)
    before = Config.from_tree(tree)
    config = Config.from_tree(tree, **settings)
    _refuse_changed_settings(before, config)
    # The random draws of a seed depend on the number of processes; unseeded ones do not.
    if config.run.seed is not None and ranks.size != checkpoint.ranks:
        raise _changed("number of processes", ranks.size, f"{checkpoint.ranks} (it is seeded)")
    _refuse_to_repeat(folder, checkpoint)
    output = config.run.model_copy(update={"output": str(root)})
    run = build_run(
        config.model_copy(update={"run": output}),
        decoding,
        resumed=checkpoint.plan,
        ranks=ranks,
    )
    for name, now, then in (
        ("input", run.config.input, before.input),
        ("pool's images", run.pool_sha256, checkpoint.pool_sha256),
    ):
        if now != then:
            raise _changed(name, now, then)
    if ranks.is_main:
        _refuse_other_data(folder, run.splits)
    run.model.load_state_dict(run.model.state_dict() | checkpoint.weights)
    run.optimizer.load_state_dict(checkpoint.optimizer)
    run.schedule.load_state_dict(checkpoint.schedule)
    return run, checkpoint


def _published(folder: RunFolder) -> Statement | None:
    return ModelFile(folder.model).statement if folder.model.is_file() else None


def _refuse_changed_settings(before: Config, now: Config) -> None:
    for leaf, section in LEAVES.items():
        new, old = (getattr(getattr(config, section), leaf) for config in (now, before))
        # The statement says of all steps how they were added up.
        adds_otherwise = leaf == "engine" and "bookkeeping" in (new, old)
        if new != old and (adds_otherwise or leaf not in places("resume")):
            raise _changed(leaf, new, old)


def _changed(name: str, now: object, then: object) -> DpmixError:
    new, old = ("not given" if value is None else value for value in (now, then))
    return DpmixError(
        f"--resume needs the settings that the run had, but its {name} is {new} and was {old}; "
        "leave it as it was, or start a new run"
    )


def _refuse_to_repeat(folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Refuse to compute published steps again: with other noise they would be released twice.

    A checkpoint is written before anything of its step is published, and it lists the steps that
    were published before. So a kill leaves a model that is at most as old as the last of these, and
    not newer than the checkpoint. Anything else was removed, restored or copied.
    """
    statement, step = _published(folder), checkpoint.step
    earlier = [point["step"] for point in checkpoint.history.points if point["step"] < step]
    found = "missing" if statement is None else f"of step {statement.steps}"
    if statement is not None and statement.run_id != checkpoint.run_id:
        statement, found = None, "of another run"  # such as the one that this run overwrites
    published = 0 if statement is None else statement.steps
    lost = statement is None and newest_step(folder.checkpoints) != step
    if published > step or lost or (earlier and published < earlier[-1]):
        raise DpmixError(
            f"the last checkpoint that can be read is of step {step} and '{folder.model}' is "
            f"{found}, which no stop leaves behind: steps could be released twice. Restore the "
            "files as the run wrote them, or start a new run"
        )


def _refuse_other_data(folder: RunFolder, splits: Splits) -> None:
    path = folder.data_hash
    if not path.is_file() or data_hash(splits) != path.read_text(encoding="utf-8"):
        raise DpmixError(
            f"the images or labels of '{splits.name}' are not those that '{path}' was made of; "
            "--resume needs the same files: restore them, or start a new run"
        )
