"""A sweep's YAML file (docs/sweeps.md), and the runs that it describes.

Later settings win: base, settings, row, grid. What `tune` chooses is for research, with seeds: the
held-out images are looked at without noise, and then trained on.
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
from dpmix.runs.config import Config, all_releases
from dpmix.runs.defaults import check_settings, choose_model, reads_pool
from dpmix.runs.recipes import is_file_name, read_mapping
from dpmix.runs.settings import ViewConfig, places

FOLDER = Path(__file__).parent
"""The sweeps of the package: the questions of the paper and more."""

Settings = dict[str, Any]
SEED = "seed"

_OF_THE_POOL = {name for name in ViewConfig.model_fields if name.startswith("pool")}


def sweep_names() -> list[str]:
    """Names of the package's sweeps, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def sweep_path(name: str) -> Path:
    """The file of a sweep, given by its path or by one of `sweep_names`."""
    if is_file_name(name):
        return Path(name).expanduser()
    if name not in sweep_names():
        raise DpmixError(
            f"no sweep '{name}': {nearest(name, sweep_names())}, or the path of a YAML file"
        )
    return FOLDER / f"{name}.yaml"


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: a row of the comparison, at what the grid gave it (`swept`).

    `settings` are all that differ from the recipe `base`, `tuned` those of them chosen by tries.
    """

    row: str
    swept: Settings
    settings: Settings
    base: Path | str | None
    tuned: Settings = field(default_factory=dict)

    @cached_property
    def config(self) -> Config:
        """Its settings, checked."""
        try:
            return Config.load(self.base, **self.settings)
        except DpmixError as error:
            raise DpmixError(f"row '{self.row}': {error}") from None

    @cached_property
    def name(self) -> str:
        """The name of its folder: runs with the same settings are the same run."""
        settings = to_json(self.config.model_dump(mode="json", exclude={"run": places("sweep")}))
        return sha256(settings.encode()).hexdigest()[:16]

    @property
    def place(self) -> Settings:
        """What the grid gave it, without the seed."""
        return {name: value for name, value in self.swept.items() if name != SEED}


@dataclass(frozen=True)
class Sweep:
    """Runs; if there are `tries`, without the settings `tuned` that these choose."""

    title: str
    runs: tuple[SweepRun, ...]
    tries: tuple[SweepRun, ...] = ()
    tuned: tuple[str, ...] = ()


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Tuning(_Strict):
    grid: dict[str, list[Any]]
    validation_fraction: float


class _Part(_Strict):
    base: str | None = None
    settings: Settings = Field(default_factory=dict)
    rows: dict[str, Settings] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    tune: _Tuning | None = None

    def tries(self, tune: _Tuning) -> "_Part":
        """The same rows, with the grid of `tune` and its held-out images."""
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
            settings=_merged(self.settings, scale.settings),
            rows=scale.rows or self.rows,
            grid=self.grid | scale.grid,
            tune=scale.tune or self.tune,
        )


def load_sweep(path: Path, scale: str | None = None, settings: Settings | None = None) -> Sweep:
    """Read a sweep, in full or at one of its scales, with `settings` instead of the file's own."""
    file = _read(path)
    if scale is not None and scale not in file.scales:
        has = nearest(scale, file.scales) if file.scales else "it has none; leave out --scale"
        raise DpmixError(f"sweep '{path}' has no scale '{scale}': {has}")
    part = file if scale is None else file.at(file.scales[scale])
    part = part.model_copy(update={"settings": _merged(part.settings, settings or {})})
    tuned = tuple(name for name in (part.tune.grid if part.tune else ()) if name != SEED)
    if part.tune and SEED not in part.grid:
        raise DpmixError(
            f"sweep '{path}': tune chooses by training images, without noise, and the runs after "
            "it train on them: no epsilon covers that. For research on public images give seed in "
            "the grid; on private ones take --private-selection, without tune"
        )
    runs = tuple(_runs(path, part))
    tries = tuple(_runs(path, part.tries(part.tune))) if part.tune else ()
    for run in (*tries, *runs):
        config = choose_model(run.config.require_no_selection())
        check_settings(config)
        refuse_if_missing(config.data.data)
    folders = {run.config.data.data for run in runs}
    if len(folders) > len({public_name(one) for one in folders}):
        raise DpmixError(
            f"sweep '{path}': {', '.join(sorted(folders))} have one name in the results, which "
            "name no path; make a sweep of each: --set data=PATH --output FOLDER"
        )
    return Sweep(file.title, runs, tries, tuned)


def _read(path: Path) -> _File:
    try:
        return _File.model_validate(read_mapping(path, "sweep"))
    except ValidationError as error:
        # A misspelt name is why another is missing.
        problem = max(error.errors(), key=lambda one: one["type"] == "extra_forbidden")
        where = ".".join(str(part) for part in problem["loc"])
        raise DpmixError(f"sweep '{path}': {where}: {problem['msg']}; see docs/sweeps.md") from None


def _merged(first: Settings, later: Settings) -> Settings:
    """The settings of `first` where `later` has none; the earlier releases of both."""
    counted = [part.get("prior_releases") or () for part in (first, later)]
    paths = all_releases(*([one] if isinstance(one, str) else one for one in counted))
    return first | later | ({"prior_releases": paths} if paths else {})


def _runs(path: Path, part: _Part) -> Iterator[SweepRun]:
    # `data` has its own column in the results, by its public name.
    for name in part.grid.keys() & (places("path") - places("sweep") - {"data"}):
        raise DpmixError(
            f"sweep '{path}': {name} is in the grid, whose values the results show, and they name "
            f"no path; make a row of each value, such as rows: {{a: {{{name}: PATH}}}}"
        )
    for row, own in (part.rows or {"all": {}}).items():
        for name in (*own, *part.grid):
            if name in places("sweep"):
                raise DpmixError(f"sweep '{path}': {name} is not for a row or a grid; leave it out")
        base = own.get("base", part.base)
        fixed = _merged(part.settings, {n: value for n, value in own.items() if n != "base"})
        # A recipe in the sweep's folder, or one of that name or path.
        recipe = path.parent / base if base and (path.parent / base).is_file() else base
        for values in itertools.product(*part.grid.values()):
            swept = dict(zip(part.grid, values, strict=True))
            run = SweepRun(row, swept, fixed | swept, recipe)
            if not reads_pool(choose_model(run.config)):
                given = {n: value for n, value in run.settings.items() if n not in _OF_THE_POOL}
                run = replace(run, settings=given)
            yield run
