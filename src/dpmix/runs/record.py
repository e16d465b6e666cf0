"""What a run leaves on the disk while it trains: checkpoints, the model, its statement, its log."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from typing import Any
from uuid import uuid4
from dpmix.runs.build import Run
from dpmix.files import text_writer
from dpmix.files import write_text
from dpmix.data.fingerprint import data_hash
from dpmix.errors import DpmixError
from dpmix.models.registry import parameter_count
from dpmix.models.head import trained_state
from dpmix.reports.metrics import metrics
from dpmix.reports.metrics import Metrics
from dpmix.reports.model_card import model_card
from dpmix.reports.page import report_page
from dpmix.reports.page import RunFacts
from dpmix.reports.statement import privacy_statement
from dpmix.reports.statement import Statement
from dpmix.runs.tracking import Tracker
from dpmix.runs.tracking import open_trackers
from dpmix.runs.checkpoint import Checkpoint
from dpmix.runs.checkpoint import Checkpoints
from dpmix.runs.checkpoint import newest_checkpoint
from dpmix.training.ema import Ema
from dpmix.files import to_json
from dpmix.training.loop import History
from dpmix.runs.folder import RunFolder
from dpmix.runs.load import weight_bytes



class RunRecord:
    """The files of one run, which going on with it does not begin anew.

    Args:
        parts: of the run.
        resumed: the checkpoint that it goes on from, if it does.
    """

    def __init__(self, parts: Run, resumed: Checkpoint | None) -> None:
        self.folder = RunFolder(parts.folder)
        self._parts, self._resumed = parts, resumed
        self._checkpoints = Checkpoints(self.folder.checkpoints, parts.config.run)
        self._run_id = resumed.run_id if resumed else uuid4().hex
        self._trackers: list[Tracker] = []
        self._resumed_at = (*resumed.resumed_at, resumed.step) if resumed else ()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the folder. A run that is stopped from here on can go on.

        Raises:
            DpmixError: as `RunFolder` raises.
        """
        if self._resumed:
            self.folder.reopen(self._run_id)
        else:
            self.folder.create(self._parts.config.run.overwrite)
        try:
            if self._resumed:
                self._refuse_if_overtaken(self._resumed)
                self._checkpoints.remove_after(self._resumed.step)
                self.folder.cut_log(self._resumed.step)
            else:
                self._checkpoints.clear()
                write_text(self.folder.data_hash, data_hash(self._parts.splits))
                self._write_checkpoint(0, self._average(), History())
            self._trackers = open_trackers(
                self._parts.config, self.folder, self._run_id, self._tracked()
            )
            yield
            self._checkpoints.clear()
        finally:
            for tracker in self._trackers:
                tracker.close()
            self.folder.close()

    def log(self, record: dict[str, Any]) -> None:
        """Note the private diagnostics of a step."""
        self.folder.log_private(record)
        if self._parts.config.run.log_private_diagnostics:
            step, *values = record.items()
            private = {f"private/{name}": value for name, value in values}
            for tracker in self._trackers:
                tracker.log(step[1], private)

    def keep(
        self, step: int, ema: Ema, history: History, evaluated: bool, interrupted: bool
    ) -> None:
        """Write a checkpoint where one is due; always before what was evaluated is published.

        Raises:
            KeyboardInterrupt: the run was `interrupted`; it can go on after this very step.
        """
        if evaluated or interrupted or self._checkpoints.due(step):
            self._write_checkpoint(step, ema, history)
        if interrupted:
            raise KeyboardInterrupt

    def save(self, ema: Ema, history: History, engine: str) -> None:
        """Write what may be released; true of this step whether or not the run goes on."""
        parts = self._parts
        settings = parts.config.to_yaml()
        weights = weight_bytes(trained_state(parts.model, ema.weights()))
        statement = privacy_statement(
            parts.config,
            parts.plan,
            pool=parts.pool_facts,
            backbone=parts.backbone,
            steps=history.points[-1]["step"],
            weights_sha256=sha256(weights).hexdigest(),
            config_sha256=sha256(settings.encode()).hexdigest(),
            run_id=self._run_id,
            resumed_at=self._resumed_at,
            processes=parts.ranks.size,
            copies=parts.copies,
        )
        trained = parameter_count(parts.model)
        numbers = metrics(parts.config, parts.plan, history, trained, engine)
        said, measured = to_json(statement), to_json(numbers)
        facts = RunFacts(
            parts.config,
            Statement.model_validate_json(said),
            Metrics.model_validate_json(measured),
        )
        self.folder.save(
            config=text_writer(settings),
            privacy=text_writer(said),
            model=lambda aside: aside.write_bytes(weights),
            metrics=text_writer(measured),
            card=text_writer(model_card(parts.config, statement, numbers)),
            report=text_writer(report_page(facts)),
        )
        point, last, judged_on = history.points[-1], history.last, parts.splits.judged_on
        assert last is not None
        for tracker in self._trackers:
            tracker.log(
                point["step"],
                {
                    "epsilon": point["epsilon"],
                    f"{judged_on}_accuracy": last.accuracy,
                    f"{judged_on}_loss": last.loss,
                },
            )

    def _refuse_if_overtaken(self, resumed: Checkpoint) -> None:
        """Between the reading of the checkpoint and the lock another process may have gone on."""
        now = newest_checkpoint(self.folder.checkpoints)
        if (now.run_id, now.step, now.resumed_at) != (
            resumed.run_id, resumed.step, resumed.resumed_at
        ):  # fmt: skip
            raise DpmixError(
                f"another process went on with the run in '{self.folder.root}' meanwhile; expected "
                f"it at step {resumed.step}: resume it again"
            )

    def _tracked(self) -> int:
        """The steps whose points stay in the curves; an evaluation is published once more."""
        if self._resumed is None:
            return 0
        evaluated = History.of(self._resumed.history).holds(self._resumed.step)
        return self._resumed.step - evaluated

    def _average(self) -> Ema:
        return Ema(self._parts.model, self._parts.config.optimizer.ema_decay)

    def _write_checkpoint(self, step: int, ema: Ema, history: History) -> None:
        parts = self._parts
        self._checkpoints.write(
            Checkpoint(
                run_id=self._run_id,
                config=parts.config.to_yaml(),
                plan=parts.plan,
                ranks=parts.ranks.size,
                pool_sha256=parts.pool_sha256,
                step=step,
                resumed_at=self._resumed_at,
                weights=trained_state(parts.model, parts.model.state_dict()),
                optimizer=parts.optimizer.state_dict(),
                schedule=parts.schedule.state_dict(),
                ema=ema.state(),
                history=asdict(history),
            )
        )
