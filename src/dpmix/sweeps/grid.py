"""A sweep: a YAML file that names what is compared, and the settings that vary.

    title: Self-Aug against DP-Mix_Self
    base: RECIPE                       # optional: a recipe that every run starts from
    settings: {data: mnist5k}          # of every run, by the settings' own names
    rows:                              # what is compared: a name, and settings of its own
      self-aug: {method: self-aug}
      mix-self: {method: mix-self}
    grid:                              # every combination of these is run for every row
      epsilon: [1, 2, 4, 8]
      seed: [0, 1, 2]
    tune:                              # optional: settings to choose first
      grid: {learning_rate: [0.5, 1, 2], seed: [100, 101]}
      validation_fraction: 0.2
    scales:                            # --scale NAME: what is different there
      cpu: {settings: {train_images: 2000}, grid: {seed: [0, 1]}}

A row's own `base: RECIPE` takes the place of the sweep's. Later settings win: base, settings, row,
grid; a scale's `rows` and `tune` replace the sweep's, its other parts are merged into them.

A row that reads no public pool is run without the settings of one.

With `tune`, every row tries the same values, for each combination of the grid (all seeds of it
together), on training images held out; the best by mean accuracy is then run as the grid says. That
is for research, and needs seeds: the held-out images are looked at without noise, and then trained
on.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpmix.data.named import public_name, refuse_if_missing
from dpmix.errors import DpmixError, nearest
from dpmix.files import to_json
from dpmix.runs.config import Config
from dpmix.runs.defaults import check_settings, choose_model, reads_pool
from dpmix.runs.recipes import is_file_name, read_mapping
from dpmix.runs.settings import ViewConfig, places

# The sweeps that come with the package: the questions of the paper and beyond.


FOLDER = Path(__file__).parent


def sweep_names() -> list[str]:
    """Their names, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def sweep_path(name: str) -> Path:
    """The file of a sweep, given by its path or by one of `sweep_names`.

    Raises:
        DpmixError: neither.
    """
    if is_file_name(name):
        return Path(name).expanduser()
    if name not in sweep_names():
        raise DpmixError(
            f"no sweep '{name}': {nearest(name, sweep_names())}, or the path of a YAML file"
        )
    return FOLDER / f"{name}.yaml"


Settings = dict[str, Any]


SEED = "seed"


_REMEDIES = {
    "extra_forbidden": "expected title, base, settings, rows, grid, tune and scales",
    "list_type": "write a list, such as [1, 2]",
}


_OF_THE_POOL = {name for name in ViewConfig.model_fields if name.startswith("pool")}


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        row: what of the comparison it belongs to.
        swept: the settings that the grid gave it.
        settings: all that differ from the base, by name.
        base: the recipe it starts from, if any.
        tuned: settings among them that tries have chosen.
    """

    row: str
    swept: Settings
    settings: Settings
    base: Path | str | None
    tuned: Settings = field(default_factory=dict)

    @cached_property
    def config(self) -> Config:
        """Its settings, checked.

        Raises:
            DpmixError: a setting that can't be meant.
        """
        try:
            return Config.load(self.base, **self.settings)
        except DpmixError as error:
            raise DpmixError(f"row '{self.row}': {error}") from None

    @cached_property
    def name(self) -> str:
        """Of its folder: runs with the same settings are the same run."""
        settings = to_json(self.config.model_dump(mode="json", exclude={"run": {*places("sweep")}}))
        return sha256(settings.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Sweep:
    """A title and the runs under it.

    Attributes:
        title: of the whole.
        cells: the runs; where there are `tries`, before the best of these is given to each.
        tries: runs to choose settings by.
        tuned: names of the settings that are chosen so.
    """

    title: str
    cells: tuple[Cell, ...]
    tries: tuple[Cell, ...] = ()
    tuned: tuple[str, ...] = ()


class _Tuning(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    grid: dict[str, list[Any]]
    validation_fraction: float


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str | None = None
    settings: Settings = Field(default_factory=dict)
    rows: dict[str, Settings] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    tune: _Tuning | None = None

    @property
    def tuned(self) -> tuple[str, ...]:
        return tuple(name for name in (self.tune.grid if self.tune else ()) if name != SEED)

    def as_tries(self, tune: _Tuning) -> "_Part":
        held_out = {"validation_fraction": tune.validation_fraction}
        grid = {name: values for name, values in self.grid.items() if name != SEED} | tune.grid
        return self.model_copy(update={"settings": self.settings | held_out, "grid": grid})


class _File(_Part):
    title: str
    scales: dict[str, _Part] = Field(default_factory=dict)

    def at(self, scale: _Part) -> _Part:
        base = scale.base if "base" in scale.model_fields_set else self.base
        return _Part(
            base=base,
            settings=self.settings | scale.settings,
            rows=scale.rows or self.rows,
            grid=self.grid | scale.grid,
            tune=scale.tune or self.tune,
        )


def load_sweep(path: Path, scale: str | None = None, settings: Settings | None = None) -> Sweep:
    """Read a sweep, at one of its scales.

    Args:
        path: of the file.
        scale: a name of its scales; None: none of them.
        settings: of every run, in place of the file's own.

    Raises:
        DpmixError: a file that can't be read or meant, no such scale, or a setting that can't be
            meant in any of its runs.
    """
    file = _read(path)
    if scale is not None and scale not in file.scales:
        has = nearest(scale, file.scales) if file.scales else "it has none; leave out --scale"
        raise DpmixError(f"sweep '{path}' has no scale '{scale}': {has}")
    part = file if scale is None else file.at(file.scales[scale])
    part = part.model_copy(update={"settings": part.settings | (settings or {})})
    for name in part.tuned:
        if name in part.grid:
            raise DpmixError(f"sweep '{path}': {name} is tuned and in the grid; leave out either")
    if part.tune and SEED not in part.grid:
        raise DpmixError(
            f"sweep '{path}': tune chooses by training images, without noise, and the runs after "
            "it train on them: no epsilon covers that. For research on public images give seed in "
            "the grid; on private ones take --private-selection, without tune"
        )
    cells = tuple(_cells(path, part))
    tries = tuple(_cells(path, part.as_tries(part.tune))) if part.tune else ()
    for cell in (*tries, *cells):
        _refuse_mistakes(cell)
    _refuse_namesakes(path, cells)
    return Sweep(file.title, cells, tries, part.tuned)


def _refuse_mistakes(cell: Cell) -> None:
    """What can be told before anything runs."""
    config = choose_model(cell.config.require_no_selection())
    check_settings(config)
    refuse_if_missing(config.data.data)


def _refuse_namesakes(path: Path, cells: tuple[Cell, ...]) -> None:
    """Results tell data sets apart by what is published of them, which is no part of a path."""
    of_name: dict[str, str] = {}
    for cell in cells:
        data = cell.config.data.data
        name = public_name(data)
        other = of_name.setdefault(name, data)
        if other != data:
            raise DpmixError(
                f"sweep '{path}': data '{other}' and '{data}' are both '{name}' in the results, "
                "which name no path; make a sweep of each: --set data=PATH --output FOLDER"
            )


def _read(path: Path) -> _File:
    try:
        return _File.model_validate(read_mapping(path, "sweep"))
    except ValidationError as error:
        # A misspelt name is why another is missing.
        problem = max(error.errors(), key=lambda one: one["type"] == "extra_forbidden")
        where = ".".join(str(part) for part in problem["loc"])
        remedy = _REMEDIES.get(problem["type"], "see docs/sweeps.md")
        raise DpmixError(
            f"sweep '{path}': {where}: {problem['msg'][0].lower()}{problem['msg'][1:]}; {remedy}"
        ) from None


def _cells(path: Path, part: _Part) -> Iterator[Cell]:
    for row, own in (part.rows or {"all": {}}).items():
        _refuse_unfit(path, row, own, part.grid)
        base = own.get("base", part.base)
        fixed = part.settings | {name: value for name, value in own.items() if name != "base"}
        recipe = None if base is None else _recipe(path, base)
        for values in itertools.product(*part.grid.values()):
            swept = dict(zip(part.grid, values, strict=True))
            yield _without_idle_pool(Cell(row, swept, fixed | swept, recipe))


def _without_idle_pool(cell: Cell) -> Cell:
    """Of all rows that are compared, a pool is for those that read one."""
    if reads_pool(choose_model(cell.config)):
        return cell
    given = {name: value for name, value in cell.settings.items() if name not in _OF_THE_POOL}
    return replace(cell, settings=given)


def _refuse_unfit(path: Path, row: str, own: Settings, grid: dict[str, list[Any]]) -> None:
    for name in grid:
        if name in own:
            raise DpmixError(
                f"sweep '{path}': row '{row}' sets {name}, which the grid varies; leave out either"
            )
    for name in (*own, *grid):
        if name in places("sweep"):
            raise DpmixError(f"sweep '{path}': {name} is not for a row or a grid; leave it out")
    for name in grid:
        # `data` has a column of its own, by its public name.
        if name in places("path") - {"data"}:
            raise DpmixError(
                f"sweep '{path}': {name} is in the grid, whose values the results show, and they "
                f"name no path; make a row of each value, such as rows: {{a: {{{name}: PATH}}}}"
            )


def _recipe(path: Path, base: str) -> Path | str:
    """A recipe in the sweep's folder, or one of that name or path."""
    beside = path.parent / base
    return beside if beside.is_file() else base
