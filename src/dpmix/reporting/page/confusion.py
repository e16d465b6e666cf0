"""The confusion matrix as a picture that stays small for hundreds of classes."""

from collections import defaultdict
from dataclasses import dataclass

from dpmix.reporting.metrics_model import Metrics

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
