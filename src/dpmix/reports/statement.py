"""The privacy statement: the guarantee of a trained model, with every number that it follows from.

Every number comes from the `PrivacyPlan` that ran or from the accountant. The statement is stored
in the header of `model.safetensors` (`dpmix.reports.files`); `privacy.json` is a copy to read.

Guarantee: a statement that `parse_statement` accepts has every field, of its type and in its range,
no other field, no field twice, and the sha256 that it was written with.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpmix.errors import DpmixError
from dpmix.files import to_json
from dpmix.privacy.accounting import MIN_SIGMA
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.unit import Neighbours, Unit

Settings = Mapping[str, Any]
"""The sections of a run's settings, each a mapping of its settings, as `config.yaml` holds them."""

NOT_PRIVATE = "NOT PRIVATE"

# Larger values would keep an accountant busy for minutes, or exhaust the memory.
_MOST_STEPS, _MOST_SIGMA, _MOST_SPENT, _MOST_COPIES = 10**7, 1e7, 100, 10**7
_MOST_EXAMPLES = 10**15

Infinite = Literal["inf"]
Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def shown_epsilon(epsilon: float | str, digits: int = 3) -> str:
    """`epsilon` with `digits` decimals, rounded up so that no better guarantee is printed."""
    if math.isinf(float(epsilon)):
        return "inf"
    return _rounded(float(epsilon), digits, ROUND_CEILING)


def shown_share(share: float) -> str:
    """A share as a percentage with two decimals, rounded up like `shown_epsilon`."""
    return f"{_rounded(100 * share, 2, ROUND_CEILING)} %"


def shown_sigma(sigma: float, digits: int = 4) -> str:
    """`sigma` with `digits` decimals, rounded down so that no larger noise is printed."""
    return _rounded(sigma, digits, ROUND_FLOOR)


def _rounded(value: float, digits: int, rounding: str) -> str:
    step = Decimal(1).scaleb(-digits)  # a precision of 330 digits is enough for any float
    return str(Decimal(repr(float(value))).quantize(step, rounding, Context(prec=330)))


class Part(BaseModel):
    """Base of everything that is read from a run's JSON files."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


T = TypeVar("T", bound=Part)


def read_file(path: Path) -> bytes:
    """Content of a file of a run."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DpmixError(
            f"cannot read '{path}' ({error.strerror}); expected a file that a run wrote: restore it"
        ) from None


def parse_json(text: str | bytes, kind: type[T], source: Path, what: str) -> T:
    """Parse JSON that a run wrote to `source`, a file of the kind `what` ("metrics")."""
    try:
        parsed = kind.model_validate_json(text)
        json.loads(text, object_pairs_hook=_refuse_twice)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        reason = f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    except ValueError as error:
        reason = str(error)
    else:
        return parsed
    raise DpmixError(
        f"'{source}' is no {what} of this version of dpmix: {reason}; expected the file as it was "
        "written"
    )


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a name that occurs twice in one object: parsers disagree on which value counts."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"'{name}' occurs twice")


def _in_accountants_range(sigma: float) -> float:
    # 0 is the noise of a run without privacy.
    if sigma != 0 and not MIN_SIGMA <= sigma <= _MOST_SIGMA:
        raise ValueError(
            f"{sigma:g} is outside the accountant's range, {MIN_SIGMA:g} to {_MOST_SIGMA:g}"
        )
    return sigma


Sigma = Annotated[float, AfterValidator(_in_accountants_range)]


class PoolInput(Part):
    """The public pool, and what it was used for."""

    model_config = ConfigDict(extra="allow", frozen=True)

    contents_sha256: Sha256
    role: Literal["mix", "extra", "pretrain"]


class BackboneInput(Part):
    """The public backbone."""

    name: str
    provenance: str
    licence: str
    weights_sha256: str | None
    embedding_size: int
    input_size: int
    trained_privately: str
    head_start: str = Field(description="zero, text, pool or random: from public inputs alone")


class PublicInputs(Part):
    """Everything that went into the model apart from the private images."""

    pool: PoolInput | None
    normalization: str
    backbone: BackboneInput | None


class RepeatedImage(Part):
    """The training image that occurs most often."""

    most: int = Field(ge=2, le=_MOST_COPIES, description="how often it occurs")
    epsilon: float | Infinite = Field(description="for the person in it, at delta")


class Membership(Part):
    """What any test of whether someone took part can find, at most (`dpmix.privacy.tradeoff`)."""

    found_at_1_percent: Share = Field(description="true-positive rate at false-positive rate 0.01")
    found_at_0_1_percent: Share = Field(description="the same at 0.001")
    best_guess: Share = Field(description="share of right guesses at even odds")
    mu: float | None = Field(ge=0, description="of the nearest Gaussian mechanism, if it is near")
    mu_gap: float | None = Field(ge=0, description="how far its curve is off, at most")

    @classmethod
    def of(cls, plan: PrivacyPlan) -> "Membership":
        """What any test can find in what a private plan releases."""
        curve = plan.tradeoff
        gaussian = curve.gaussian(plan.delta)
        return cls(
            found_at_1_percent=curve.most_found_at(0.01),
            found_at_0_1_percent=curve.most_found_at(0.001),
            best_guess=curve.best_guess,
            mu=gaussian.mu if gaussian else None,
            mu_gap=gaussian.gap if gaussian else None,
        )


class Statement(Part):
    """The guarantee of a run."""

    private: bool
    run_id: str
    written: str | None = Field(description="the day; null for a run of a private selection")
    guarantee: str
    epsilon: float | Infinite = Field(description="at delta, of all planned steps")
    epsilon_rdp: float | Infinite = Field(description="the same by Renyi DP accounting")
    epsilon_at_fixed_stop: float | None = Field(
        description="of the first `steps` steps; it holds only if the stop was fixed beforehand"
    )
    delta: float = Field(gt=0, lt=1)
    membership: Membership | None = Field(description="of all planned steps, if it is private")
    neighbouring_relation: Neighbours
    mechanism: str
    method: str
    accountant: Literal["PLD", "RDP"] = Field(description="of epsilon, by dp-accounting")
    sampling_rate: float = Field(gt=0, le=1, description="q, of Poisson sampling")
    denominator: float = Field(gt=0, description="divisor of the noisy sum, in examples")
    noise_multiplier: Sigma = Field(description="sigma: noise_std / sensitivity")
    max_grad_norm: float | Infinite = Field(description="C, the clipping norm")
    sensitivity: float | Infinite = Field(description="L2 sensitivity of the released sum")
    noise_std: float = Field(ge=0, description="standard deviation of the noise on each parameter")
    steps: int = Field(ge=0, le=_MOST_STEPS, description="after which the weights were published")
    planned_steps: int = Field(ge=0, le=_MOST_STEPS, description="T")
    complete: bool
    resumed_at: list[int] = Field(description="steps after which the run was stopped and resumed")
    processes: int = Field(ge=1, description="number of processes that trained together")
    examples: int | None = Field(
        ge=1, le=_MOST_EXAMPLES, description="N, training images or persons, if it is public"
    )
    weights_sha256: Sha256 = Field(description="of the weights, by `dpmix.reports.files`")
    config_sha256: Sha256 = Field(description="of the settings stored with the weights")
    seeded: bool
    float32_sums: bool = Field(description="clipped gradients were added in float32")
    assumptions: list[str]
    spent_before: list[Sigma] = Field(max_length=_MOST_SPENT, description="of earlier releases")
    expected_runs: float | None = Field(ge=1, description="of the private selection of this run")
    repeats: RepeatedImage | None = Field(description="if the run was allowed to train on repeats")
    several_images: dict[str, float | Infinite] | None = Field(
        description="epsilon, at delta, of a person with 2, 3, 5 or 10 training images; null where "
        "the unit is a person"
    )
    public_inputs: PublicInputs
    versions: dict[str, str]
    sha256: Sha256 = Field(description="of all other fields, by `seal`")

    @property
    def unit(self) -> Unit:
        """What the guarantee protects."""
        return "person" if "person" in self.neighbouring_relation else "image"

    @model_validator(mode="after")
    def _makes_no_more_steps_than_planned(self) -> "Statement":
        if self.steps > self.planned_steps:
            raise ValueError(
                f"steps is {self.steps}, more than planned_steps, {self.planned_steps}"
            )
        return self


ONE: dict[Unit, str] = {
    "image": "training example",
    "person": "person with all their training images",
}
"""Unit of privacy -> what is added or removed, in words."""


def seal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Set the sha256 of all other fields, which shows an accidental edit, but no forger."""
    rest = {name: value for name, value in fields.items() if name != "sha256"}
    return rest | {"sha256": sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def parse_statement(text: str | bytes, source: Path) -> Statement:
    """Parse a statement that was read from `source`; refuse one that was edited."""
    statement = parse_json(text, Statement, source, "privacy statement")
    if statement.sha256 != seal(json.loads(text))["sha256"]:
        raise DpmixError(
            f"the privacy statement in '{source}' was changed since it was written: its sha256 "
            "does not fit the rest; expected the file as the run wrote it"
        )
    return statement


def read_statement(path: Path) -> Statement:
    """Read the copy of a statement, `privacy.json`; errors as of `parse_statement`."""
    return parse_statement(read_file(path), path)


def statement_text(statement: Statement) -> str:
    """The statement as JSON."""
    return to_json(statement.model_dump(mode="json"))
