"""The loop: when it evaluates, saves and reports, and what it calls epsilon on the way."""

import signal

import pytest
import torch
from torch import nn

from dpmix.data import TensorSource, normalization
from dpmix.privacy.plan import PrivacyPlan
from dpmix.training.ema import Ema
from dpmix.training.evaluate import evaluate
from dpmix.training.loop import History, gentle_interrupts, train
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewBuilder, ViewSpec


class Log:
    """Notes what a run would write."""

    def __init__(self):
        self.lines, self.events = [], []

    def log(self, record):
        self.lines.append(record)

    def keep(self, step, ema, history, evaluated, interrupted):
        self.events.append(("keep", step, evaluated and history.holds(step)))

    def save(self, ema, history, engine):
        self.events.append(("save", history.points[-1]["step"]))


def run(steps, eval_every):
    plan = PrivacyPlan(0.5, 4.0, steps, 5.0, 1.0, 1e-2, 1, 1.0)
    pixels = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
    data = TensorSource(pixels, torch.arange(8) % 2, ("a", "b"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    constants = normalization("unit", 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = PrivateTrainer(
        model, data, plan=plan, views=ViewBuilder(ViewSpec("none"), 2, constants),
        optimizer=optimizer,
    )  # fmt: skip
    reports, log = [], Log()
    history = train(
        trainer,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
        ema=Ema(model, 0.9),
        evaluate=lambda averaged, last: evaluate(averaged, data, constants, torch.device("cpu")),
        eval_every=eval_every,
        history=History(),
        log=log,
        report=reports.append,
    )
    return plan, history, reports, log.events, log.lines


def test_it_evaluates_and_saves_at_its_interval_and_at_the_end():
    plan, history, reports, events, lines = run(steps=5, eval_every=2)
    # What is shown is never less than what has been spent.
    assert [now.epsilon for now in reports] == [plan.epsilon_after(s) for s in (2, 2, 4, 4, 5)]
    assert history.points[-1]["epsilon"] == plan.epsilon
    assert [point["step"] for point in history.points] == [0, 2, 4, 5]
    assert history.points[0]["epsilon"] == 0, "before the first private step"
    assert [now.step for now in reports] == [1, 2, 3, 4, 5]
    assert [now.evaluation is not None for now in reports] == [False, True, False, True, True]
    assert history.last == reports[-1].evaluation
    assert history.points[-1]["score"] == history.last.score
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    # Each step is offered for a checkpoint before anything of it is published.
    assert events == [
        ("keep", 1, False), ("keep", 2, True), ("save", 2), ("keep", 3, False), ("keep", 4, True),
        ("save", 4), ("keep", 5, True), ("save", 5),
    ]  # fmt: skip


def test_the_first_ctrl_c_is_noted_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), gentle_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_every_step_is_offered_for_a_checkpoint_before_anything_of_it_is_published():
    _, _, _, events, _ = run(steps=3, eval_every=2)
    assert events == [
        ("keep", 1, False), ("keep", 2, True), ("save", 2), ("keep", 3, True), ("save", 3),
    ]  # fmt: skip
