"""The record of a Gaussian release outside training, by which a later run counts it.

Guarantee: a report that `read_spent` accepts says what its release cost; a run that names it
composes that cost with its own (`PrivacyPlan.spent`). Nothing in it depends on the private data but
through the release itself.
"""

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import MIN_SIGMA, epsilon_gaussian
from dpmix.privacy.plan import PrivacyPlan


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
        """A report that was edited in one place is caught in another."""
        epsilon = epsilon_gaussian(self.noise_multiplier, self.delta)
        if not math.isclose(epsilon, self.epsilon, rel_tol=1e-3):
            raise ValueError("epsilon is not that of the noise multiplier")
        if self.neighbouring_relation != PrivacyPlan.neighbouring_relation:
            raise ValueError("another neighbouring relation")
        return self


class _Report(BaseModel):
    """Any report with the record of its release; what else it says is not read."""

    release: ReleaseRecord


def read_spent(paths: tuple[str, ...]) -> tuple[float, ...]:
    """The noise multipliers of the releases that the reports at `paths` record.

    Raises:
        DpmixError: a report that is unreadable, records no private release, or is given twice.
    """
    records = [_read(Path(path).expanduser()) for path in paths]
    for place, record in enumerate(records):
        if record in records[:place]:
            raise DpmixError(
                f"spent names one release twice ('{paths[place]}'); give each report once"
            )
    return tuple(record.noise_multiplier for record in records)


def _read(path: Path) -> ReleaseRecord:
    try:
        return _Report.model_validate_json(path.read_bytes()).release
    except OSError as error:
        raise DpmixError(
            f"cannot read '{path}' ({error.strerror}); expected the record of an earlier release"
        ) from None
    except ValidationError:
        raise DpmixError(
            f"'{path}' records no private release, or was edited; expected the record "
            "of an earlier release, unchanged: leave it out if nothing was spent"
        ) from None
