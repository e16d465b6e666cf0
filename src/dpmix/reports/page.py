"""A run's page, made again from the files of its folder: so it gains an audit of a later day."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from jinja2 import Environment, PackageLoader, StrictUndefined
from scipy import stats

from dpmix.audit.audit import audit_of
from dpmix.data.named import public_name
from dpmix.errors import DpmixError
from dpmix.files import write_text
from dpmix.privacy.selection import epsilon_stated
from dpmix.reports.audit_report import AuditReport
from dpmix.reports.metrics import Metrics, read_metrics
from dpmix.reports.model_card import views_in_words
from dpmix.reports.statement import Statement, read_statement, shown_epsilon, shown_sigma
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder
from dpmix.runs.settings import InputConfig
from dpmix.views.draws import ViewDraws, draw_views
from dpmix.views.spec import ViewSpec

# Where values lie in a chart: scales, and ticks at round numbers.


WIDTH, HEIGHT = 400.0, 250.0


LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 30.0, 40.0


_STEPS = (1, 2, 5, 10)


@dataclass(frozen=True)
class PlotArea:
    """A chart of values from 0 to `right` and from 0 to `top`, in units of the picture.

    Attributes:
        right: the largest value along x, above 0.
        top: the largest value along y, above 0.
        width: of the picture.
        height: of the picture.
    """

    right: float
    top: float
    width: float = WIDTH
    height: float = HEIGHT

    def x(self, value: float) -> float:
        """Where `value` lies along x, to a tenth."""
        return round(LEFT + value / self.right * (self.width - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Where `value` lies along y, to a tenth; up is less."""
        return round(self.height - BOTTOM - value / self.top * (self.height - TOP - BOTTOM), 1)

    def line(self, points: Sequence[tuple[float, float]]) -> str:
        """The points of a polyline."""
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)

    @property
    def x_ticks(self) -> list[float]:
        """Round values along x."""
        return ticks(self.right)

    @property
    def y_ticks(self) -> list[float]:
        """Round values along y."""
        return ticks(self.top)


def ticks(top: float, most: int = 5) -> list[float]:
    """Round values from 0 to at most `top`, at most `most` above 0; any may carry a rounding error.

    Args:
        top: above 0.
        most: how many.
    """
    scale = 10.0 ** math.floor(math.log10(top / most))
    step = next(scale * one for one in _STEPS if scale * one * most >= top * (1 - 1e-9))
    return [step * index for index in range(int(top / step * (1 + 1e-9)) + 1)]


# What numbers of a guarantee or an audit mean, in plain sentences.


def best_guess(epsilon: float, delta: float) -> float:
    """How often, at most, somebody guesses rightly whether an example was in, at even odds.

    Under (epsilon, delta)-DP a test's two error rates obey fpr + e^epsilon fnr >= 1 - delta and the
    same with the two exchanged (Kairouz, Oh, Viswanath 2015), so their mean is at least
    (1 - delta) / (1 + e^epsilon).
    """
    return 1 - (1 - delta) / (1 + math.exp(min(epsilon, 700.0)))


def meaning(epsilon: float, delta: float) -> str:
    """The guarantee in one sentence."""
    share = best_guess(epsilon, delta)
    # Rounded up, but not to certainty as long as it is none.
    rounded = (math.ceil(share * 10 ** (2 + digits)) / 10**digits for digits in (1, 2, 3, 4))
    percent = next((value for value in rounded if value < 100), 100)
    return (
        "Somebody who knows this model and every other training image, and guesses at even odds "
        f"whether one given image was among them, is right at most {percent:g} % of the time; a "
        "random draw is right 50 % of the time."
    )


def claimed_epsilon(statement: Statement) -> str:
    """Epsilon as it is claimed: of all planned steps, and of fewer only with what that rests on."""
    whole, at_stop = shown_epsilon(float(statement.epsilon)), statement.epsilon_at_fixed_stop
    if at_stop is None:
        return whole
    return f"{whole} ({shown_epsilon(at_stop)} only if its stop was fixed beforehand)"


def audit_verdict(audit: AuditReport) -> str:
    """What an audit came to, in two sentences."""
    at = f"at {100 * audit.confidence:g} % confidence"
    bound, claim = f"{audit.lower_bound:.3f}", shown_epsilon(audit.claimed)
    if audit.broken:
        return (
            f"REFUTED: the training did not do what its plan says ({', '.join(audit.broken)}). "
            "Do not rely on the guarantee."
        )
    if audit.refuted:
        return (
            f"REFUTED: the attack shows that epsilon is at least {bound} {at}, more than the "
            f"{claim} that is claimed. Do not rely on the guarantee."
        )
    power = (
        " The attack had little power: more canaries or runs would say more." if audit.weak else ""
    )
    return (
        f"Not refuted: the strongest attack shows an epsilon of at least {bound} {at}, and "
        f"{claim} is claimed. That proves nothing, but it looked for bugs and found none.{power}"
    )


# Accuracy class by class, with how far chance alone may have moved it.


MOST_SHOWN = 12


CONFIDENCE = 0.95


@dataclass(frozen=True)
class ClassBar:
    """A class: its accuracy, between what bounds it lies, and of how many images."""

    name: str
    accuracy: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class ClassBars:
    """All classes, the lowest accuracy first.

    Attributes:
        bars: of them.
        overall: the same of all images together.
    """

    bars: tuple[ClassBar, ...]
    overall: ClassBar

    @property
    def shown(self) -> int:
        """How many are not folded away: all of a few, the lowest of many."""
        return len(self.bars) if len(self.bars) <= MOST_SHOWN else MOST_SHOWN


def class_bars(metrics: Metrics) -> ClassBars:
    """The bars of a run."""
    names = list(metrics.class_accuracy)
    total = [sum(metrics.confusion[name].values()) for name in names]
    right = [metrics.confusion[name].get(name, 0) for name in names]
    shares = [*metrics.class_accuracy.values(), metrics.accuracy]
    low, high = _interval(np.array([*right, sum(right)]), np.array([*total, sum(total)]))
    *bars, overall = (
        ClassBar(name, share, float(lowest), float(highest), images)
        for name, share, lowest, highest, images in zip(
            [*names, "all"], shares, low, high, [*total, sum(total)], strict=True
        )
    )
    return ClassBars(tuple(sorted(bars, key=lambda bar: bar.accuracy)), overall)


def _interval(
    right: np.ndarray, total: np.ndarray
) -> tuple[Float64[np.ndarray, " L"], Float64[np.ndarray, " L"]]:
    """Clopper and Pearson's (1934) interval of a share."""
    tail = (1 - CONFIDENCE) / 2
    low = stats.beta.ppf(tail, right, total - right + 1)
    high = stats.beta.ppf(1 - tail, right + 1, total - right)
    return np.where(right == 0, 0.0, low), np.where(right == total, 1.0, high)


# The confusion matrix as a picture that stays small for hundreds of classes.


LEVELS = 8


MOST_LABELLED = 12


_PAIRS = 10


@dataclass(frozen=True)
class Cell:
    """One entry: row of the true class, column of the predicted one, images, level of colour."""

    row: int
    column: int
    images: int
    level: int


@dataclass(frozen=True)
class Confused:
    """Two classes that are taken for each other: so many images, and their share of the class."""

    true: str
    predicted: str
    images: int
    share: float


@dataclass(frozen=True)
class ConfusionMatrix:
    """The matrix, row by row of the true class.

    Attributes:
        names: of the classes, in order.
        cells: where there are any images.
        pairs: the most confused, by images.
    """

    names: tuple[str, ...]
    cells: tuple[Cell, ...]
    pairs: tuple[Confused, ...]

    @property
    def labelled(self) -> bool:
        """Whether there is room for names and numbers."""
        return len(self.names) <= MOST_LABELLED

    @property
    def paths(self) -> list[tuple[str, int, str]]:
        """All cells of one kind (`right` or `wrong`) and level as one path of unit squares."""
        drawn: dict[tuple[str, int], list[str]] = defaultdict(list)
        for cell in self.cells:
            kind = "right" if cell.row == cell.column else "wrong"
            drawn[kind, cell.level].append(f"M{cell.column} {cell.row}h1v1h-1z")
        return [(kind, level, "".join(d)) for (kind, level), d in sorted(drawn.items())]


def confusion_matrix(metrics: Metrics) -> ConfusionMatrix:
    """The matrix of a run; colours are shares of the true class, on a scale of square roots."""
    names = tuple(metrics.class_accuracy)
    place = {name: index for index, name in enumerate(names)}
    cells, pairs = [], []
    for true, row in metrics.confusion.items():
        total = sum(row.values())
        for predicted, images in row.items():
            share = images / total
            level = max(1, round(LEVELS * share**0.5))
            cells.append(Cell(place[true], place[predicted], images, level))
            if predicted != true:
                pairs.append(Confused(true, predicted, images, share))
    pairs.sort(key=lambda pair: (-pair.images, -pair.share))
    return ConfusionMatrix(names, tuple(cells), tuple(pairs[:_PAIRS]))


# Epsilon against steps: a function of the plan, and so public.


_POINTS = 10


Points = list[tuple[float, float]]


@dataclass(frozen=True)
class EpsilonCurve:
    """What a run has spent, and what it goes on to spend if it is not over.

    Attributes:
        spent: (steps, epsilon) from 0 to the model's steps.
        planned: the same from there to the last step of the plan; empty where the run is over.
    """

    spent: Points
    planned: Points

    @property
    def whole(self) -> Points:
        """Both."""
        return self.spent + self.planned[1:]


def epsilon_curve(statement: Statement) -> EpsilonCurve | None:
    """Some ten to twenty points, the choice of a private selection included; None without privacy.

    They lie where a run is evaluated by default, since what it accounted for itself is remembered,
    and before that, where epsilon rises steeply, at 1, 4, 16, ... steps.
    """
    if not statement.private:
        return None
    now, last = statement.steps, statement.planned_steps
    every = max(1, last // _POINTS)
    early = takewhile(lambda step: step < every, (4**power for power in count()))
    points = [
        (float(step), _epsilon(statement, step))
        for step in sorted({0, *early, *range(every, last, every), now, last})
    ]
    planned = [point for point in points if point[0] >= now]
    return EpsilonCurve([p for p in points if p[0] <= now], planned if now < last else [])


def _epsilon(said: Statement, steps: int) -> float:
    given = (said.sampling_rate, said.noise_multiplier, steps, said.delta)
    return epsilon_stated(*given, said.expected_runs, tuple(said.spent_before))


# Views as a run's method makes them, of pictures that are drawn and belong to nobody.
#
# Guarantee: no image of a data set is in them. Crops, flips, partners and weights are those that
# the run's own code draws, from public random draws.


SIDE = 100


_SHOWN, _SEED = 8, 1


PRIVATE, OTHER_PRIVATE, PUBLIC = "boat", "tree", ("house", "hills")


@dataclass(frozen=True)
class View:
    """A window of SIDE x SIDE onto a picture with mirrored borders.

    Attributes:
        picture: which.
        x: its left edge; 0 cuts nothing off.
        y: its top edge.
        flip: whether it is mirrored afterwards.
    """

    picture: str
    x: float
    y: float
    flip: bool

    @property
    def transform(self) -> str:
        """Of the picture, so that the window lies at the origin."""
        moved = f"translate({-self.x:g} {-self.y:g})"
        return f"translate({SIDE} 0) scale(-1 1) {moved}" if self.flip else moved


@dataclass(frozen=True)
class Mixture:
    """`weight` of `first` and the rest of `second`, which are numbers of unmixed views."""

    first: int
    second: int
    weight: float


@dataclass(frozen=True)
class ExampleViews:
    """Views of one group.

    Attributes:
        base: of the private picture; of two in turns, where a method joins examples.
        public: of public pictures.
        mixed: of these.
        shown: so many of each are to be shown.
        averaged: whether the unmixed views enter the mean gradient.
    """

    base: tuple[View, ...]
    public: tuple[View, ...]
    mixed: tuple[Mixture, ...]
    averaged: bool
    shown: int = _SHOWN

    @property
    def unmixed(self) -> tuple[View, ...]:
        """Views before mixing."""
        return self.base + self.public


def example_views(config: Config) -> ExampleViews:
    """The views of one group, as the settings of a run make them."""
    spec = config.view_spec(flip=False)
    draws = draw_views(spec, 1, np.random.default_rng(_SEED))
    assert config.input is not None
    views = [_view(spec, draws, place, config.input.image_shape) for place in
             range(spec.unmixed_views)]  # fmt: skip
    mixtures = zip(*(part[0].tolist() for part in (draws.first, draws.second, draws.weight)),
                   strict=True)  # fmt: skip
    return ExampleViews(
        base=tuple(views[: spec.base_views]),
        public=tuple(views[spec.base_views :]),
        mixed=tuple(Mixture(first, second, round(weight, 3)) for first, second, weight in mixtures),
        averaged=spec.average == "all",
    )


def _view(spec: ViewSpec, draws: ViewDraws, place: int, shape: tuple[int, int, int]) -> View:
    if place >= spec.base_views:
        picture = PUBLIC[(place - spec.base_views) % len(PUBLIC)]
    else:
        picture = (PRIVATE, OTHER_PRIVATE)[place % spec.examples_per_group]
    padding = 0 if spec.method == "none" else spec.crop_padding
    top, left, flip = (int(part[0, place]) for part in (draws.top, draws.left, draws.flip))
    # A crop at `left` of a mirrored image is the mirrored crop at 2p - left.
    across = padding - left if flip else left - padding
    height, width = shape[1:]
    return View(
        picture, x=round(SIDE * across / width, 2), y=round(SIDE * (top - padding) / height, 2),
        flip=bool(flip),
    )  # fmt: skip


# Templates to HTML: everything is escaped but what a template itself says.


def render(template: str, **values: Any) -> str:
    """Fill a template of the package."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dpmix.reports"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["epsilon"] = shown_epsilon
    environment.filters["sigma"] = shown_sigma
    environment.filters["percent"] = _percent
    environment.filters["number"] = _number
    return environment


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def _number(value: float | str) -> str:
    """A number as people write it; `inf` and `nan`, which JSON has as text, as they are."""
    if isinstance(value, str):
        return value
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}"


# What a run's public files say of it: all that its page is made of.


@dataclass(frozen=True)
class RunFacts:
    """A run, as anyone may know it.

    Attributes:
        config: its settings.
        statement: its guarantee.
        metrics: what was measured on the test split.
        audit: of these settings, if one was made.
    """

    config: Config
    statement: Statement
    metrics: Metrics
    audit: AuditReport | None = None

    @property
    def data_name(self) -> str:
        """What the data set is called."""
        return public_name(self.config.data.data)

    @property
    def input(self) -> InputConfig:
        """What the model takes."""
        assert self.config.input is not None
        return self.config.input


def read_facts(folder: RunFolder) -> RunFacts:
    """Read the public files of a run, and nothing of its diagnostics.

    Raises:
        DpmixError: no run's folder, or a file that is missing or not as a run writes it.
    """
    folder.refuse_if_missing(folder.privacy)
    statement = read_statement(folder.privacy)
    config = Config.load(folder.config)
    if config.input is None:
        raise DpmixError(
            f"'{folder.config}' has no section 'input'; expected the config.yaml that the run wrote"
        )
    return RunFacts(config, statement, read_metrics(folder.metrics))


# `report.html`: a run on one page, for whoever is handed the model.


def report_page(run: RunFacts) -> str:
    """Render the page from the run's public files; nothing else is read."""
    curve, spec = epsilon_curve(run.statement), run.config.view_spec(flip=False)
    steps = float(run.statement.planned_steps)
    return render(
        "report.html.j2",
        run=run,
        config=run.config,
        statement=run.statement,
        metrics=run.metrics,
        spec=spec,
        views_said=views_in_words(spec),
        meaning=meaning(float(run.statement.epsilon), run.statement.delta),
        classes=class_bars(run.metrics),
        matrix=confusion_matrix(run.metrics),
        levels=LEVELS,
        reliability_area=PlotArea(1.0, 1.0, height=400.0),
        curve=curve,
        curve_area=PlotArea(steps, 1.08 * curve.whole[-1][1]) if curve else None,
        accuracies=[(float(one.step), one.accuracy) for one in run.metrics.curve],
        accuracy_area=PlotArea(steps, 1.0),
        views=example_views(run.config),
        audit=run.audit,
        verdict=audit_verdict(run.audit) if run.audit else None,
    )


def audited_facts(folder: RunFolder) -> RunFacts:
    """What a run's public files say, with the audit beside them if there is one.

    Raises:
        DpmixError: as `read_facts` and `audit_of` raise.
    """
    facts = read_facts(folder)
    return replace(facts, audit=audit_of(folder, facts.config, facts.statement))


def write_report(root: Path) -> RunFacts:
    """Write the page of the run at `root` anew, and return what it was made of.

    Raises:
        DpmixError: as `audited_facts` raises, a run is writing to the folder, or it can't be
            written to.
    """
    folder = RunFolder(root)
    with folder.held():
        facts = audited_facts(folder)
        write_text(folder.report, report_page(facts))
    return facts
