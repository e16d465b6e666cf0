"""The training loop: steps, evaluations, and a releasable model on disk at each of them."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from dpmix.training.ema import Ema
from dpmix.training.evaluate import Evaluation
from dpmix.training.trainer import PrivateTrainer

# Ctrl-C between steps, so that nothing a step has done is lost.


@contextmanager
def gentle_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed; a second one interrupts at once.

    Outside the main thread, where signals can't be heard, it never was.
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


@dataclass(frozen=True)
class Progress:
    """Where a run stands, in facts that may be shown to anyone.

    Attributes:
        step: steps released so far.
        steps: T.
        epsilon: of the steps up to the next evaluation. It holds for a run that it was fixed
            beforehand to stop there; `plan.epsilon` holds wherever the run is stopped.
        evaluation: of the averaged weights, where one was made at this step.
    """

    step: int
    steps: int
    epsilon: float
    evaluation: Evaluation | None


@dataclass
class History:
    """Accuracy of the averaged weights on what the run is judged on, over the run."""

    points: list[dict[str, Any]] = field(default_factory=list)
    last: Evaluation | None = None

    @classmethod
    def of(cls, state: dict[str, Any]) -> "History":
        """What `asdict` made of a history."""
        last = state["last"]
        return cls(state["points"], last and Evaluation(**last))

    def holds(self, step: int) -> bool:
        """Whether the latest evaluation was made after `step` steps."""
        return bool(self.points) and self.points[-1]["step"] == step


def train(
    trainer: PrivateTrainer,
    *,
    schedule: LRScheduler,
    ema: Ema,
    evaluate: Callable[[nn.Module], Evaluation | None],
    eval_every: int,
    history: History,
    log: Callable[[dict[str, Any]], None],
    keep: Callable[[int, History, bool], None],
    save: Callable[[History], None],
    report: Callable[[Progress], None],
) -> History:
    """Run every step that the plan has left.

    The model that counts is the last average, a rule fixed beforehand: no evaluation chooses.
    What is computed at a step is kept before it is saved or reported: a run that goes on from what
    was kept never does a step again that somebody may have seen.

    Args:
        trainer: wired to a plan, model and data.
        schedule: of the learning rate.
        ema: of the trainer's model.
        evaluate: the averaged model on held-out images, every `eval_every` steps and at the end;
            None where another process does it.
        eval_every: steps.
        history: evaluations of the steps that are done.
        log: takes the private diagnostics of each step.
        keep: called after each step, with its number, all evaluations and whether one is its own.
        save: called after each evaluation; writes what may be released.
        report: called after each step.
    """
    total, due, epsilon = trainer.plan.steps, 0, 0.0
    if history.holds(trainer.steps_done):
        save(history)  # the run may have been stopped between `keep` and this
    while trainer.steps_done < total:
        if trainer.steps_done >= due:
            due = min((trainer.steps_done // eval_every + 1) * eval_every, total)
            epsilon = trainer.plan.epsilon_after(due)
        start = time.perf_counter()
        diagnostics = trainer.step()
        # How long a step takes tells how many examples were drawn.
        seconds = time.perf_counter() - start
        schedule.step()
        ema.update()
        step = trainer.steps_done
        log({"step": step, **asdict(diagnostics), "seconds": seconds})
        evaluation = None
        if step == due:
            with ema.applied() as averaged:
                evaluation = evaluate(averaged)
        if evaluation is not None:
            history.points.append(
                {
                    "step": step,
                    "epsilon": epsilon,
                    "accuracy": evaluation.accuracy,
                }
            )
            history.last = evaluation
        keep(step, history, evaluation is not None)
        if evaluation is not None:
            save(history)
        report(Progress(step, total, epsilon, evaluation))
    return history
