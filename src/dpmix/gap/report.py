"""The gap check's report: what it found, and the record by which a run counts its cost.

Guarantee: the file is in place, empty, before anything private is released, so no release is lost
for want of space or leave to write.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dpmix.errors import DpmixError
from dpmix.gap.check import GapFinding
from dpmix.models.backbone import Backbone
from dpmix.privacy.accounting import calibrate_gaussian, epsilon_gaussian
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.release_record import ReleaseRecord
from dpmix.privacy.repeats import epsilon_of_copies_together
from dpmix.public.load import PoolFacts


@dataclass(frozen=True)
class Budget:
    """What a gap check may spend: one Gaussian release that is (epsilon, delta)-DP.

    Attributes:
        sigma: its noise multiplier.
        delta: at which epsilon is stated.
    """

    sigma: float
    delta: float

    @classmethod
    def of(cls, epsilon: float, delta: float) -> "Budget":
        """The least noise for (epsilon, delta).

        Raises:
            DpmixError: an epsilon or a delta out of range.
        """
        if not epsilon > 0:
            raise DpmixError(f"spend is {epsilon:g}; expected an epsilon above 0, such as 0.1")
        if not 0 < delta < 1:
            raise DpmixError(f"delta is {delta:g}; expected in (0, 1)")
        return cls(calibrate_gaussian(epsilon, delta), delta)

    def epsilon_of_copies(self, copies: int) -> float:
        """Epsilon of the person in `copies` equal images."""
        return epsilon_of_copies_together((), copies, self.delta, (self.sigma,))

    def record(self) -> ReleaseRecord:
        """What a later run reads."""
        return ReleaseRecord(
            what="gap check of a public pool",
            written=datetime.now(UTC).isoformat(timespec="microseconds"),
            noise_multiplier=self.sigma,
            epsilon=epsilon_gaussian(self.sigma, self.delta),
            delta=self.delta,
            neighbouring_relation=PrivacyPlan.neighbouring_relation,
        )


@contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Hold `path` for the report while the check runs; a check that fails leaves no file.

    Raises:
        DpmixError: the file is there (it may be the record of another release), or can't be made.
    """
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        raise DpmixError(
            f"'{path}' is there already; a report records what was spent: give another --output"
        ) from None
    except OSError as error:
        raise DpmixError(
            f"cannot write '{path}' ({error.strerror}); nothing was spent: give another --output"
        ) from None
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def gap_report(
    finding: GapFinding,
    *,
    pool: PoolFacts,
    class_names: tuple[str, ...],
    backbone: Backbone,
    release: ReleaseRecord | None,
    repeats: tuple[int, float] | None,
) -> dict[str, Any]:
    """The report as JSON values; `release` is None between public sets.

    `repeats` is how often the most frequent private image occurs, and the epsilon of the person in
    it; None where none is repeated.
    """
    found, floor = finding.found, finding.floor
    return {
        "advice": finding.advice.verdict,
        "reason": finding.advice.reason,
        "class_ratio": found.class_ratio,
        "matched_classes": found.matched,
        "frechet_ratio": found.frechet_ratio,
        "class_distance": {class_names[label]: d for label, d in found.by_class.items()},
        "noise_alone": {
            "class_ratio": floor.class_ratio,
            "matched_classes": floor.matched,
            "frechet_ratio": floor.frechet_ratio,
        },
        "backbone": {"name": backbone.name, "provenance": backbone.provenance},
        "pool": pool.as_dict() | {"images_compared": finding.pool_images},
        "release": release and release.model_dump(),
        "repeats": repeats and {"most": repeats[0], "epsilon": repeats[1]},
    }
