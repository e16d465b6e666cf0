"""Progress bars with rate and time left.

Bars are silent where the output is no terminal. Guarantee: no bar of work on private images shows
how many there are.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from dpmix.data.splits import JudgedOn
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.statement import shown_epsilon
from dpmix.training.loop import Progress as TrainingProgress

Bar = AbstractContextManager[Callable[[int, int], None]]
"""Yields a callback (done, total)."""

# A column that never breaks over two lines; the bar gives way instead.
_LINE = Column(no_wrap=True)


def decoding_bar(console: Console) -> Bar:
    """A bar for decoding images."""
    return share_bar(console, "reading images")


def counting_bar(console: Console, what: str, unit: str) -> Bar:
    """A bar for `what`, counted in `unit`."""
    return _filled(_bar(console, *_counted(unit)), what)


def share_bar(console: Console, what: str) -> Bar:
    """A bar for work on private images: it shows the share that is done.

    A count, or a rate in images, would show N (`tests/cli/test_private_n.py`).
    """
    return _filled(_bar(console, TaskProgressColumn(table_column=_LINE)), what)


@contextmanager
def training_bar(
    console: Console, plan: PrivacyPlan, done: int, judged_on: JudgedOn
) -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar for training after `done` steps, with epsilon and the held-out score."""
    whole = shown_epsilon(plan.epsilon, 2)
    spent = f"epsilon {{task.fields[epsilon]}} of {whole}" if plan.private else "NOT PRIVATE"
    shown = (TextColumn(text, table_column=_LINE) for text in (spent, "{task.fields[score]}"))
    with _bar(console, *_counted("steps"), *shown) as bar:
        epsilon = shown_epsilon(plan.epsilon_after(done) if done else 0.0, 2)
        task = bar.add_task("training", total=plan.steps, completed=done, epsilon=epsilon, score="")

        def update(now: TrainingProgress) -> None:
            bar.update(task, completed=now.step, epsilon=shown_epsilon(now.epsilon, 2))
            if now.evaluation:
                bar.update(task, score=f"{judged_on} {now.evaluation.score:.1%}")

        yield update


class _Rate(ProgressColumn):
    """Units per second, or a dash before the first unit."""

    def __init__(self, unit: str) -> None:
        super().__init__(table_column=_LINE)
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.2f} {self.unit}/s" if speed else f"- {self.unit}/s")


def _counted(unit: str) -> tuple[ProgressColumn, ...]:
    return MofNCompleteColumn(table_column=_LINE), _Rate(unit)


def _bar(console: Console, *shown: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}", table_column=_LINE),
        BarColumn(bar_width=None, table_column=Column(min_width=4, max_width=40)),
        *shown,
        TimeRemainingColumn(table_column=_LINE),
        console=console,
        expand=True,
        disable=not console.is_terminal,
    )


@contextmanager
def _filled(bar: Progress, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show the bar once its work begins."""
    with bar:
        task = bar.add_task(what, total=None, visible=False)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield update
