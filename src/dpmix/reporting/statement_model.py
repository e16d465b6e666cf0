"""What `privacy.json` holds, field by field; `privacy.schema.json` is this as a JSON schema.

Guarantee: a statement that `read_statement` accepts has every field, of its type and in its range,
and no other; and it is, to the last character that counts, as it was written.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import MIN_SIGMA
from dpmix.reporting.json_model import Infinite, Part, read_json
from dpmix.training.json_text import to_json

SCHEMA = Path(__file__).with_name("privacy.schema.json")
_SHA256 = r"^[0-9a-f]{64}$"

# Beyond these an accountant takes minutes, or more memory than there is.
_MOST_STEPS, _MOST_SIGMA, _MOST_SPENT, _MOST_COPIES = 10**7, 1e7, 100, 10**7
_MOST_EXAMPLES = 10**15


def _countable(sigma: float) -> float:
    """Refuse noise outside the accountant's range; 0 is none, of a run that is not private."""
    if sigma != 0 and not MIN_SIGMA <= sigma <= _MOST_SIGMA:
        raise ValueError(f"{sigma:g} is outside the accountant's range, {MIN_SIGMA:g} to "
                         f"{_MOST_SIGMA:g}")  # fmt: skip
    return sigma


Sigma = Annotated[float, AfterValidator(_countable)]


class Accountant(Part):
    """Whose epsilon is stated, and whose beside it."""

    name: Literal["PLD", "RDP"]
    library: Literal["dp-accounting"]
    beside: Literal["RDP"]


class PoolInput(Part):
    """The public pool, and what it was used for."""

    model_config = ConfigDict(extra="allow", frozen=True)

    contents_sha256: str = Field(pattern=_SHA256)
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


class PublicInputs(Part):
    """All that went into the model beside the private images."""

    pool: PoolInput | None
    normalization: str
    pretrained_weights: str | None
    backbone: BackboneInput | None


class RepeatedImage(Part):
    """The training image that occurs most often."""

    most: int = Field(ge=2, le=_MOST_COPIES, description="how often it occurs")
    epsilon: float | Infinite = Field(description="of the person in it, at delta")


class Statement(Part):
    """The guarantee of a run."""

    private: bool
    run_id: str
    written: str | None = Field(description="when; not told of a private selection's run")
    guarantee: str
    epsilon: float | Infinite = Field(
        description="by the accountant, at delta, of all planned steps: it holds wherever the run "
        "is stopped"
    )
    epsilon_rdp: float | Infinite
    epsilon_at_fixed_stop: float | None = Field(
        None,
        description="of `steps` steps, where these are not all: it holds only if it was fixed "
        "beforehand, whatever the run would show, to stop there",
    )
    delta: float = Field(gt=0, lt=1)
    neighbouring_relation: Literal["add or remove one training example"]
    mechanism: str
    method: str
    accountant: Accountant
    sampling_rate: float = Field(gt=0, le=1, description="q, of Poisson sampling")
    denominator: float = Field(gt=0, description="what the noisy sum is divided by")
    noise_multiplier: Sigma = Field(description="sigma: noise_std / sensitivity")
    max_grad_norm: float | Infinite = Field(description="C")
    sensitivity: float | Infinite = Field(description="of the released sum")
    noise_std: float = Field(ge=0)
    steps: int = Field(
        ge=1, le=_MOST_STEPS, description="T, of the model that weights_sha256 names"
    )
    planned_steps: int = Field(ge=1, le=_MOST_STEPS)
    complete: bool
    resumed_at: list[int]
    processes: int = Field(ge=1)
    examples: int | None = Field(
        ge=1, le=_MOST_EXAMPLES, description="N, where it counts as public"
    )
    weights_sha256: str = Field(pattern=_SHA256)
    config_sha256: str = Field(pattern=_SHA256)
    seeded: bool
    assumptions: list[str]
    spent_before: list[Sigma] = Field(
        max_length=_MOST_SPENT, description="sigmas of earlier releases, counted in epsilon"
    )
    expected_runs: float | None = Field(
        ge=1, description="of the private selection that this run is the best of"
    )
    repeats: RepeatedImage | None = Field(
        description="where the run was allowed to train on images that occur more than once"
    )
    public_inputs: PublicInputs
    versions: dict[str, str]
    sha256: str = Field(pattern=_SHA256, description="of all the rest, as `seal` computes it")

    @model_validator(mode="after")
    def _says_what_a_stop_rests_on(self) -> "Statement":
        """Earlier versions stated the epsilon of the steps so far, as if nobody had looked."""
        if self.private and self.complete != (self.epsilon_at_fixed_stop is None):
            raise ValueError(
                f"complete is {self.complete} and epsilon_at_fixed_stop is "
                f"{self.epsilon_at_fixed_stop}, which a run has until it is complete: dpmix train "
                "--resume writes its statement again"
            )
        return self


def seal(said: dict[str, Any]) -> dict[str, Any]:
    """Add the sha256 of what is said. It tells an edit, not a forger, who can compute it anew."""
    return said | {"sha256": _digest(said)}


def _digest(said: dict[str, Any]) -> str:
    rest = {name: value for name, value in said.items() if name != "sha256"}
    ordered = json.dumps(json.loads(to_json(rest)), sort_keys=True)
    return sha256(ordered.encode()).hexdigest()


def read_statement(path: Path) -> Statement:
    """Read a statement as it was written.

    Raises:
        DpmixError: unreadable, no privacy statement, or edited since.
    """
    statement = read_json(path, Statement, "privacy statement")
    said = json.loads(path.read_bytes())
    if statement.sha256 != _digest(said):
        raise DpmixError(
            f"'{path}' was changed since it was written: its sha256 is not that of the rest; "
            "expected the file as the run wrote it"
        )
    return statement


def schema_text() -> str:
    """The JSON schema, as `privacy.schema.json` holds it."""
    return json.dumps(Statement.model_json_schema(), indent=2) + "\n"
