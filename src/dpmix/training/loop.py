"""The training loop: steps, evaluations, and a releasable model on disk at each of them."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from dpmix.training.ema import Ema
from dpmix.training.evaluate import Evaluation
from dpmix.training.run_folder import RunFolder
from dpmix.training.step import PrivateTrainer


@dataclass(frozen=True)
class Progress:
    """Where a run stands, in facts that may be shown to anyone.

    Attributes:
        step: steps released so far.
        steps: T.
        epsilon: epsilon spent once the next evaluation is reached (PLD): an upper bound so far.
        evaluation: of the averaged weights, where one was made at this step.
    """

    step: int
    steps: int
    epsilon: float
    evaluation: Evaluation | None


@dataclass
class History:
    """Accuracy of the averaged weights on the test split, over the run."""

    points: list[dict[str, Any]] = field(default_factory=list)
    last: Evaluation | None = None


def train(
    trainer: PrivateTrainer,
    *,
    schedule: LRScheduler,
    ema: Ema,
    evaluate: Callable[[nn.Module], Evaluation],
    eval_every: int,
    folder: RunFolder,
    save: Callable[[History], None],
    report: Callable[[Progress], None],
) -> History:
    """Run every step that the plan has left.

    The model that counts is the last average, a rule fixed beforehand: no evaluation chooses.
    Private diagnostics go to the folder's private log, a line a step, as they come.

    Args:
        trainer: wired to a plan, model and data.
        schedule: of the learning rate.
        ema: of the trainer's model.
        evaluate: the averaged model on the test split, every `eval_every` steps and at the end.
        eval_every: steps.
        folder: where diagnostics go.
        save: called after each evaluation; writes what may be released.
        report: called after each step.
    """
    history, total = History(), trainer.plan.steps
    due, epsilon = 0, 0.0
    while trainer.steps_done < total:
        if trainer.steps_done == due:
            due = min(due + eval_every, total)
            epsilon = trainer.plan.epsilon_after(due)
        start = time.perf_counter()
        diagnostics = trainer.step()
        # How long a step takes tells how many examples were drawn.
        seconds = time.perf_counter() - start
        schedule.step()
        ema.update()
        step = trainer.steps_done
        folder.log_private({"step": step, **asdict(diagnostics), "seconds": seconds})
        evaluation = None
        if step == due:
            with ema.applied() as averaged:
                evaluation = evaluate(averaged)
            history.points.append(
                {"step": step, "epsilon": epsilon, "test_accuracy": evaluation.accuracy}
            )
            history.last = evaluation
            save(history)
        report(Progress(step, total, epsilon, evaluation))
    return history
