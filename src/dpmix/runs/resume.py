"""Going on with a stopped run: the same plan, data, pool and model, or not at all."""

from hashlib import sha256
from pathlib import Path
from typing import Any
import yaml
from dpmix.runs.build import Run, build_run
from dpmix.runs.config import Config
from dpmix.runs.settings import LEAVES, places
from dpmix.data.splits import Splits
from dpmix.data.fingerprint import data_hash
from dpmix.data.image import Progress as Counted
from dpmix.errors import DpmixError
from dpmix.runs.checkpoint import Checkpoint
from dpmix.runs.checkpoint import newest_checkpoint
from dpmix.runs.checkpoint import newest_step
from dpmix.training.distributed import ALONE
from dpmix.training.distributed import Ranks
from dpmix.runs.folder import RunFolder



def is_complete(root: Path, **settings: Any) -> bool:
    """Whether the run at `root` has nothing left to do.

    Raises:
        DpmixError: a privacy statement that can't be read, or `settings` that it did not run under.
    """
    folder = RunFolder(root)
    released = folder.released()
    left = newest_step(folder.checkpoints) is not None
    complete = released is not None and released.complete and not left
    if complete:
        _refuse_changed_settings(Config.load(folder.config), Config.load(folder.config, **settings))
    return complete


def refuse_lost_model(root: Path) -> None:
    """Refuse a complete run whose model is gone: there is nothing to resume, and nothing to load.

    Raises:
        DpmixError: it is gone.
    """
    model = RunFolder(root).model
    if not model.is_file():
        raise DpmixError(
            f"the run in '{root}' is complete, but '{model}' is missing; restore it, or start a "
            "new run"
        )


def rebuild_run(
    root: Path, decoding: Counted | None = None, ranks: Ranks = ALONE, **settings: Any
) -> tuple[Run, Checkpoint]:
    """The parts of the stopped run at `root` as they were, and the checkpoint to go on from.

    Args:
        root: its folder.
        decoding: told (done, total) while images are decoded.
        ranks: the processes that are to go on.
        **settings: given anew, of those that `places("resume")` names.

    Raises:
        DpmixError: no checkpoint, a complete run, or anything that is not as it was, by its name.
    """
    folder = RunFolder(root)
    if not folder.diagnostics.is_dir():
        raise DpmixError(f"'{root}' is no run folder; give the folder of the run to go on with")
    if is_complete(root, **settings):
        refuse_lost_model(root)
        raise DpmixError(
            f"the run in '{root}' is complete: there is nothing left to do; load its model"
        )
    checkpoint = newest_checkpoint(folder.checkpoints)
    tree = yaml.safe_load(checkpoint.config)
    before = Config.from_tree(tree)
    config = Config.from_tree(tree, **settings)
    _refuse_changed_settings(before, config)
    _refuse_other_ranks(checkpoint, config, ranks)
    _refuse_to_go_back(folder, checkpoint)
    output = config.run.model_copy(update={"output": str(root)})
    parts = build_run(
        config.model_copy(update={"run": output}),
        decoding,
        resumed=checkpoint.plan,
        ranks=ranks,
        recorded=True,
    )
    for name, now, then in (
        ("input", parts.config.input, before.input),
        ("pool's images", parts.pool_sha256, checkpoint.pool_sha256),
    ):
        if now != then:
            raise _changed(name, now, then)
    if ranks.first:
        _refuse_other_data(folder, parts.splits)
    _restore(checkpoint, parts)
    return parts, checkpoint


def _restore(checkpoint: Checkpoint, parts: Run) -> None:
    """Put model, optimizer and schedule where they were."""
    parts.model.load_state_dict(parts.model.state_dict() | checkpoint.weights)
    parts.optimizer.load_state_dict(checkpoint.optimizer)
    parts.schedule.load_state_dict(checkpoint.schedule)


def _refuse_changed_settings(before: Config, now: Config) -> None:
    for leaf, section in LEAVES.items():
        new, old = (getattr(getattr(config, section), leaf) for config in (now, before))
        if new != old and leaf not in places("resume"):
            raise _changed(leaf, new, old)


def _changed(name: str, now: object, then: object) -> DpmixError:
    return DpmixError(
        f"--resume goes on with the same run, but its {name} is {_shown(now)} and was "
        f"{_shown(then)}; expected no change: leave it as it was, or start a new run"
    )


def _shown(value: object) -> object:
    return "not given" if value is None else value


def _refuse_other_ranks(checkpoint: Checkpoint, config: Config, ranks: Ranks) -> None:
    """A seed's random draws belong to a number of processes; fresh ones suit any."""
    if config.run.seed is not None and ranks.size != checkpoint.ranks:
        raise _changed("number of processes", ranks.size, f"{checkpoint.ranks} (it is seeded)")


def _refuse_to_go_back(folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Steps that were published, done again with other noise, would be released twice.

    The statement tells which were. A save writes it after the checkpoint of its step and before its
    weights (`RunFolder.save`). So what a stop can leave is: no statement before the first save; or,
    at the very step of the newest checkpoint, a statement beside the weights of an earlier step, or
    beside none. Anything else was removed, restored or copied, and is refused.
    """
    released, step = folder.released(), checkpoint.step
    if released is None or released.run_id != checkpoint.run_id:
        reason = _published(folder, checkpoint, told_of_another=released is not None)
        if reason:
            raise DpmixError(
                f"{reason}, and '{folder.privacy}' does not say what was published of the run: "
                "its steps could be released twice. Restore it as the run wrote it, or start a new "
                "run"
            )
        return
    if released.steps > step:
        raise DpmixError(
            f"the last checkpoint that can be read is of step {step}, but a model of "
            f"step {released.steps} was published: the steps between would be released twice. "
            "Restore the newer checkpoint, or start a new run"
        )
    if released.steps < step and _sha256(folder.model) != released.weights_sha256:
        raise DpmixError(
            f"'{folder.privacy}' is of step {released.steps}, and '{folder.model}' is not its "
            "model: later steps may have been published, and could be released twice. Restore both "
            "as the run wrote them, or start a new run"
        )


def _published(folder: RunFolder, checkpoint: Checkpoint, told_of_another: bool) -> str | None:
    """Why the run may have published something that no statement tells, if it may."""
    evaluated = [point["step"] for point in checkpoint.history["points"]]
    if folder.model.exists() and not told_of_another:
        return f"'{folder.model}' is there"
    if newest_step(folder.checkpoints) != checkpoint.step:
        return f"there are later checkpoints than that of step {checkpoint.step}, the last readable"
    earlier = [step for step in evaluated if step < checkpoint.step]
    return f"a model of step {earlier[-1]} was published" if earlier else None


def _sha256(path: Path) -> str | None:
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _refuse_other_data(folder: RunFolder, splits: Splits) -> None:
    try:
        then = folder.data_hash.read_text(encoding="utf-8")
    except OSError as error:
        raise DpmixError(
            f"cannot read '{folder.data_hash}' ({error.strerror}), which tells whether the data "
            "are the same; restore the run's diagnostics, or start a new run"
        ) from None
    if data_hash(splits) != then:
        raise DpmixError(
            f"--resume goes on with the same run, but the images or labels of '{splits.name}' "
            "changed since it began; expected the same files: restore them, or start a new run"
        )
