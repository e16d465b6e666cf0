"""The training loop: steps, evaluations, and a releasable model on disk at each evaluation."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from pydantic import TypeAdapter
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from dpmix.training.ema import Ema
from dpmix.training.evaluate import Evaluation
from dpmix.training.trainer import PrivateTrainer


@dataclass(frozen=True)
class Progress:
    """Where a run stands, in facts that may be shown to anyone.

    Attributes:
        step: number of steps released so far.
        steps: number of steps of the plan, T.
        epsilon: epsilon of a run that was fixed beforehand to stop at the next evaluation.
        evaluation: the averaged weights' evaluation, if one was made at this step.
    """

    step: int
    steps: int
    epsilon: float
    evaluation: Evaluation | None


@dataclass
class History:
    """Step, epsilon and score of each evaluation of the averaged weights; the last as a whole.

    The first point is of the model before its first private step.
    """

    points: list[dict[str, Any]] = field(default_factory=list)
    last: Evaluation | None = None

    @classmethod
    def of(cls, state: dict[str, Any]) -> "History":
        """The history from which `asdict` made `state`."""
        last = state["last"]
        return cls(state["points"], last and TypeAdapter(Evaluation).validate_python(last))

    def holds(self, step: int) -> bool:
        """Whether the latest evaluation was made after `step` steps."""
        return bool(self.points) and self.points[-1]["step"] == step


@runtime_checkable
class RunLog(Protocol):
    """What a run writes to disk while it trains."""

    def log(self, record: dict[str, Any]) -> None:
        """Write the private diagnostics of a step."""

    def keep(
        self, step: int, ema: Ema, history: History, evaluated: bool, interrupted: bool
    ) -> None:
        """Write a checkpoint after a step, if one is due; stop the run if it was interrupted."""

    def save(self, ema: Ema, history: History, engine: str) -> None:
        """Write what may be released after an evaluation."""


def train(
    trainer: PrivateTrainer,
    *,
    schedule: LRScheduler,
    ema: Ema,
    evaluate: Callable[[nn.Module, bool], Evaluation] | None,
    eval_every: int,
    history: History,
    log: RunLog | None,
    report: Callable[[Progress], None],
) -> History:
    """Run every step that the plan has left.

    The model that counts is the last average, a rule fixed beforehand: no evaluation chooses.
    What is computed at a step is kept before it is saved or reported: a run that is resumed from
    what was kept never repeats a step that somebody may have seen.

    Args:
        trainer: holds the plan, the model and the data.
        schedule: schedule of the learning rate.
        ema: moving average of the trainer's model.
        evaluate: evaluates the averaged model on held-out images, in full if that is asked for, as
            it is of the last step; None in processes without `log`.
        eval_every: number of steps between evaluations; the last step is always evaluated.
        history: evaluations of the steps that are done.
        log: writes the run's files; None in other processes than the one that writes.
        report: called after each step.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the step that was running is complete and kept.
    """
    total, due, epsilon = trainer.plan.steps, 0, 0.0
    if log is not None and evaluate is not None and not history.points:
        start = evaluate(trainer.model, not total)
        spent = trainer.plan.epsilon_after(0)  # 0, or that of earlier releases
        history.points.append({"step": 0, "epsilon": spent, "score": start.score})
        history.last = None if total else start
    if log is not None and history.holds(trainer.steps_done) and history.last is not None:
        log.save(ema, history, str(trainer.engine))  # the run may have been stopped just before
    with gentle_interrupts() as interrupted:
        while trainer.steps_done < total:
            if trainer.steps_done >= due:
                due = min((trainer.steps_done // eval_every + 1) * eval_every, total)
                epsilon = trainer.plan.epsilon_after(due)
            began = time.perf_counter()
            diagnostics = trainer.step()
            # Private too: the time of a step shows how many examples were drawn.
            seconds = time.perf_counter() - began
            schedule.step()
            ema.update()
            step, evaluation = trainer.steps_done, None
            if log is not None:
                log.log({"step": step, **asdict(diagnostics), "seconds": seconds})
                if step == due and evaluate is not None:
                    with ema.applied() as averaged:
                        evaluation = evaluate(averaged, step == total)
                    point = {"step": step, "epsilon": epsilon, "score": evaluation.score}
                    history.points.append(point)
                    history.last = evaluation
                log.keep(step, ema, history, evaluation is not None, interrupted())
                if evaluation is not None:
                    log.save(ema, history, str(trainer.engine))
            report(Progress(step, total, epsilon, evaluation))
    return history


@contextmanager
def gentle_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C was pressed; a second Ctrl-C interrupts at once.

    So nothing that a step has done is lost. Only the main thread receives signals.
    """
    pressed = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: pressed
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
