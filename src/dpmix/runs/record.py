"""What a run writes while it trains: checkpoints, the model with its guarantee, and its logs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from typing import Any
from uuid import uuid4

import yaml

from dpmix.data.fingerprint import data_hash
from dpmix.errors import DpmixError
from dpmix.files import to_json, write_text
from dpmix.models.head import trained_state
from dpmix.models.registry import parameter_count
from dpmix.reports.facts import RunFacts
from dpmix.reports.files import model_bytes, weights_sha256
from dpmix.reports.guarantee import privacy_statement, public_inputs
from dpmix.reports.metrics import metrics
from dpmix.reports.page import model_card, report_page
from dpmix.reports.statement import statement_text
from dpmix.runs.build import Run
from dpmix.runs.checkpoint import Checkpoint, Checkpoints, newest_checkpoint
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder
from dpmix.runs.tracking import Tracker, open_trackers
from dpmix.training.ema import Ema
from dpmix.training.evaluate import Evaluation
from dpmix.training.loop import History


class RunRecord:
    """The files of one run."""

    def __init__(self, run: Run, resumed: Checkpoint | None) -> None:
        self.folder = RunFolder(run.folder)
        self._run, self._resumed = run, resumed
        self._checkpoints = Checkpoints(self.folder.checkpoints, run.config.run)
        self._run_id = resumed.run_id if resumed else uuid4().hex
        self._trackers: list[Tracker] = []
        # An audit in the folder is of an earlier run until this one has published a model.
        self._stale = () if resumed and resumed.history.last else (self.folder.audit,)
        self._resumed_at = (*resumed.resumed_at, resumed.step) if resumed else ()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the folder. From here on, a run that is stopped can be resumed."""
        if self._resumed:
            self.folder.reopen()
        else:
            self.folder.create(self._run.config.run.overwrite)
        with ExitStack() as ends:
            ends.callback(self.folder.close)
            tracked = 0
            if self._resumed:
                step = self._resumed.step
                self._refuse_if_overtaken(self._resumed)
                self._checkpoints.remove_after(step)
                self.folder.cut_log(step)
                tracked = step - self._resumed.history.holds(step)  # it is published once more
            else:
                self.folder.clear_diagnostics()
                if self._run.config.privacy.spend is not None:
                    # The classes are counted: a run that starts here again would count twice.
                    self.folder.private_log.touch()
            # Before the checkpoints of an earlier run go: a tracker may refuse.
            self._trackers = open_trackers(self._run.config, self.folder, self._run_id, tracked)
            for tracker in self._trackers:
                ends.callback(tracker.close)
            if not self._resumed:
                self._checkpoints.clear()
                write_text(self.folder.data_hash, data_hash(self._run.splits))
                average = Ema(self._run.model, self._run.config.optimizer.ema_decay)
                self._write_checkpoint(0, average, History())
            yield
            self._checkpoints.clear()

    def log(self, record: dict[str, Any]) -> None:
        """Write the private diagnostics of a step."""
        self.folder.log_private(record)

    def keep(
        self, step: int, ema: Ema, history: History, evaluated: bool, interrupted: bool
    ) -> None:
        """Write a checkpoint if one is due, and always before an evaluation is published."""
        if evaluated or interrupted or self._checkpoints.due(step):
            self._write_checkpoint(step, ema, history)
        if interrupted:
            raise KeyboardInterrupt

    def save(self, ema: Ema, history: History, engine: str) -> None:
        """Publish the model of the last evaluation with its guarantee."""
        run, folder, last = self._run, self.folder, history.last
        assert last is not None
        config = _with_thresholds(run.config, last)
        weights = trained_state(run.model, ema.weights())
        settings = config.model_dump(mode="json")
        published = config.published() | {"run": {"seed": config.run.seed}}
        stored = yaml.safe_dump(published, sort_keys=False)
        statement = privacy_statement(
            settings,
            run.plan,
            public_inputs(settings, run.pool_facts, run.backbone),
            steps=history.points[-1]["step"],
            weights_sha256=weights_sha256(weights),
            config_sha256=sha256(stored.encode()).hexdigest(),
            run_id=self._run_id,
            resumed_at=self._resumed_at,
            processes=run.ranks.size,
            copies=run.copies,
        )
        measured = metrics(settings, run.plan, history, parameter_count(run.model), engine)
        facts = RunFacts(settings, statement, measured)
        folder.publish(
            model_bytes(weights, statement, stored),
            {
                folder.config: config.to_yaml(),
                folder.privacy: statement_text(statement),
                folder.metrics: to_json(measured.model_dump()),
                folder.card: model_card(facts),
                # A page takes a second to draw: `dpmix report` draws that of a stopped run.
                folder.report: report_page(facts) if statement.complete else None,
                **dict.fromkeys(self._stale),
            },
        )
        self._stale = ()
        point, judged_on = history.points[-1], run.splits.judged_on
        values = {
            "epsilon": point["epsilon"],
            f"{judged_on}_{last.measure.replace(' ', '_')}": point["score"],
            f"{judged_on}_loss": last.loss,
        }
        for tracker in self._trackers:
            tracker.log(point["step"], values)

    def _refuse_if_overtaken(self, resumed: Checkpoint) -> None:
        """Refuse if another process resumed the run before this one had the lock."""
        now = newest_checkpoint(self.folder.checkpoints)
        if (now.run_id, now.step, now.resumed_at) != (
            resumed.run_id, resumed.step, resumed.resumed_at
        ):  # fmt: skip
            raise DpmixError(
                f"another process resumed the run in '{self.folder.root}' meanwhile; expected it "
                f"at step {resumed.step}: resume it again"
            )

    def _write_checkpoint(self, step: int, ema: Ema, history: History) -> None:
        run = self._run
        self._checkpoints.write(
            Checkpoint(
                run_id=self._run_id,
                config=run.config.to_yaml(),
                plan=run.plan,
                ranks=run.ranks.size,
                pool_sha256=run.pool_sha256,
                step=step,
                resumed_at=self._resumed_at,
                weights=trained_state(run.model, run.model.state_dict()),
                optimizer=run.optimizer.state_dict(),
                schedule=run.schedule.state_dict(),
                ema=ema.state(),
                history=history,
            )
        )


def _with_thresholds(config: Config, last: Evaluation) -> Config:
    """The settings with the thresholds that were chosen on validation images, if any were."""
    if config.input is None or last.decisions is None or not last.decisions.chosen_here:
        return config
    chosen = {"thresholds": tuple(last.decisions.thresholds)}
    return config.model_copy(update={"input": config.input.model_copy(update=chosen)})
