"""Earlier Gaussian releases of the same private data, which a run counts in its epsilon.

A release is recorded as `{"release": {...}}` in a JSON report. A run that names the report composes
the cost of that release with its own (`PrivacyPlan.prior_releases`).
"""

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import MIN_SIGMA, epsilon_gaussian
from dpmix.privacy.unit import NEIGHBOURS, Unit


class ReleaseRecord(BaseModel):
    """One Gaussian release of a private training set, without subsampling."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str
    written: str
    noise_multiplier: float = Field(ge=MIN_SIGMA, allow_inf_nan=False)
    epsilon: float
    delta: float = Field(gt=0, lt=1)
    neighbouring_relation: str

    @model_validator(mode="after")
    def _consistent(self) -> "ReleaseRecord":
        epsilon = epsilon_gaussian(self.noise_multiplier, self.delta)
        if not math.isclose(epsilon, self.epsilon, rel_tol=1e-3):
            raise ValueError("epsilon is not that of the noise multiplier")
        if self.neighbouring_relation not in NEIGHBOURS.values():
            raise ValueError("another neighbouring relation")
        return self


class _Report(BaseModel):
    release: ReleaseRecord


def read_prior_releases(paths: tuple[str, ...], unit: Unit) -> tuple[float, ...]:
    """Return the noise multipliers of the releases recorded in the reports at `paths`, in order.

    Raises:
        DpmixError: a report is unreadable, records no private release or one of another unit of
            privacy than `unit`, or is given twice.
    """
    records = [_read(Path(path).expanduser()) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if record.neighbouring_relation != NEIGHBOURS[unit]:
            raise DpmixError(
                f"'{path}' records a release with the guarantee '{record.neighbouring_relation}', "
                f"and the unit of this run is one {unit}; expected the same unit: give --unit"
            )
    for place, record in enumerate(records):
        if record in records[:place]:
            raise DpmixError(
                f"'{paths[place]}' records a release that is given twice; give each report once"
            )
    return tuple(record.noise_multiplier for record in records)


def _read(path: Path) -> ReleaseRecord:
    try:
        return _Report.model_validate_json(path.read_bytes()).release
    except OSError as error:
        raise DpmixError(
            f"cannot read '{path}' ({error.strerror}); expected the report of a private release"
        ) from None
    except ValidationError:
        raise DpmixError(
            f"'{path}' records no private release, or was edited; expected a JSON report with a "
            "'release' entry: leave the report out if it released nothing"
        ) from None
