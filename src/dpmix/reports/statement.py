"""`privacy.json`: the guarantee that ran, from the plan that ran it.

Every number comes from the `PrivacyPlan` or from the accountant, none is typed in again.
"""

import json
import math
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpmix.errors import DISTRIBUTION, DpmixError
from dpmix.files import to_json
from dpmix.models.backbones.backbone import Backbone
from dpmix.pool.load import PoolFacts
from dpmix.privacy.accounting import MIN_SIGMA
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.runs.config import Config
from dpmix.runs.settings import ViewConfig

# How a guarantee is printed: never better than the one that holds.


# Digits of any float.
_ALL = Context(prec=330)


def shown_epsilon(epsilon: float, digits: int = 3) -> str:
    """`epsilon` with `digits` decimals, rounded up; `inf` as it is."""
    if math.isinf(epsilon):
        return "inf"
    return str(
        Decimal(repr(float(epsilon))).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING, _ALL)
    )


def shown_sigma(sigma: float, digits: int = 4) -> str:
    """`sigma` with `digits` decimals, rounded down: no noise is claimed that is not there."""
    return str(Decimal(repr(float(sigma))).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR, _ALL))


# How the JSON files of a run are read: every field of its type, and none that is not known.


Infinite = Literal["inf"]


Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


T = TypeVar("T", bound=Part)


def read_json(path: Path, kind: type[T], what: str) -> T:
    """Read the file at `path`, a run's `what`.

    Raises:
        DpmixError: unreadable, or something else.
    """
    try:
        text = path.read_bytes()
        said = kind.model_validate_json(text)
    except OSError as error:
        raise DpmixError(
            f"cannot read '{path}' ({error.strerror}); expected a run's {what}"
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise DpmixError(
            f"'{path}' is no {what} of this version of dpmix: {where}: "
            f"{problem['msg'].removeprefix('Value error, ')}; expected the file as it was written"
        ) from None
    json.loads(text, object_pairs_hook=_refuse_repeats(path))
    return said


def _refuse_repeats(path: Path) -> Callable[[list[tuple[str, Any]]], None]:
    """Of a name that is there twice, one reader takes the first value and another the last."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise DpmixError(f"'{path}' says '{name}' twice; expected the file as it was "
                                 "written")  # fmt: skip
            seen.add(name)

    return check


# What `privacy.json` holds, field by field; `privacy.schema.json` is this as a JSON schema.
#
# Guarantee: a statement that `read_statement` accepts has every field, of its type and in its
# range, and no other; and it is, to the last character that counts, as it was written.


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


NOT_PRIVATE = "NOT PRIVATE"


MECHANISM = "Poisson-subsampled Gaussian on the sum of clipped gradients (DP-SGD)"


_LIBRARIES = ("torch", "torchvision", "numpy", "dp-accounting")


def privacy_statement(
    config: Config,
    plan: PrivacyPlan,
    *,
    pool: PoolFacts | None,
    backbone: Backbone | None,
    steps: int,
    weights_sha256: str,
    config_sha256: str,
    run_id: str,
    resumed_at: tuple[int, ...] = (),
    processes: int = 1,
    copies: int = 1,
) -> dict[str, Any]:
    """State the guarantee of a model after `steps` of the plan's steps.

    Args:
        config: the run's settings.
        plan: what ran.
        pool: what is known of the public pool, if one was read.
        backbone: whose features were trained on, if any.
        steps: steps released; fewer than planned where the run is not over.
        weights_sha256: of the weights' file that the statement is about.
        config_sha256: of the settings' file beside it.
        run_id: names the run.
        resumed_at: the steps after which it was stopped and went on; not said of a private
            selection's run.
        processes: how many trained together.
        copies: how often the most frequent training image occurs.
    """
    at_stop = plan.epsilon_after(steps) if plan.private and steps < plan.steps else None
    repeats = (copies, epsilon_of_copies(plan, copies, plan.steps)) if copies > 1 else None
    pretrains = pool is not None and config.views.pool_role == "pretrain"
    # When it was, and where it was stopped, tells which of a private selection's runs it is.
    selected = plan.expected_runs is not None
    resumed = () if selected else resumed_at
    said = {
        "private": plan.private,
        "run_id": run_id,
        # The day alone: when a run ends tells how long its steps took, and so how many were drawn.
        "written": None if selected else datetime.now(UTC).date().isoformat(),
        "guarantee": guarantee(
            plan,
            plan.epsilon,
            config.run.seed,
            stopped=None if at_stop is None else (steps, at_stop),
            repeats=repeats,
        ),
        # Of all planned steps: who stops a run may do so for what it has shown.
        "epsilon": plan.epsilon,
        "epsilon_rdp": plan.epsilon_rdp,
        "epsilon_at_fixed_stop": at_stop,
        "delta": plan.delta,
        "neighbouring_relation": plan.neighbouring_relation,
        "mechanism": MECHANISM if plan.private else "none: neither clipping nor noise",
        "method": config.views.method,
        "accountant": {"name": plan.accountant, "library": "dp-accounting", "beside": "RDP"},
        "sampling_rate": plan.sampling_rate,
        "denominator": plan.denominator,
        "noise_multiplier": plan.noise_multiplier,
        "max_grad_norm": plan.max_grad_norm,
        "sensitivity": plan.max_grad_norm * plan.sensitivity_multiplier,
        "noise_std": plan.noise_std,
        "steps": steps,
        "planned_steps": plan.steps,
        "complete": steps == plan.steps,
        "resumed_at": list(resumed),
        "processes": processes,
        "examples": plan.n,
        "weights_sha256": weights_sha256,
        "config_sha256": config_sha256,
        "seeded": config.run.seed is not None,
        "assumptions": assumptions(config, plan, resumed, processes, copies)
        if plan.private
        else [],
        "repeats": repeats and {"most": repeats[0], "epsilon": repeats[1]},
        "spent_before": list(plan.prior_releases),
        "expected_runs": plan.expected_runs,
        "public_inputs": {
            "pool": pool and pool.as_dict() | _use_of_pool(config.views),
            "normalization": config.data.normalization or "the backbone's own",
            "pretrained_weights": "the public pool" if pretrains else None,
            "backbone": backbone and _facts(backbone, config),
        },
        "versions": versions(),
    }
    return seal(said)


def versions() -> dict[str, str]:
    """Of Python and of what a run's numbers come from."""
    ours = {"python": platform.python_version(), "dpmix": version(DISTRIBUTION)}
    return ours | {name: version(name) for name in _LIBRARIES}


def _facts(backbone: Backbone, config: Config) -> dict[str, Any]:
    return {
        "name": backbone.name,
        "provenance": backbone.provenance,
        "licence": backbone.licence,
        "weights_sha256": config.input and config.input.backbone_sha256,
        "embedding_size": backbone.embedding_size,
        "input_size": backbone.module.input_size,
        "trained_privately": config.model.trainable,
    }


def _use_of_pool(views: ViewConfig) -> dict[str, Any]:
    if views.pool_role == "pretrain":
        return {"role": views.pool_role, "epochs": views.pretrain_epochs}
    return {"role": views.pool_role, "draw": views.pool_draw}


def guarantee(
    plan: PrivacyPlan,
    epsilon: float,
    seed: int | None,
    *,
    stopped: tuple[int, float] | None = None,
    repeats: tuple[int, float] | None = None,
) -> str:
    """The guarantee in a few sentences, or that there is none.

    Args:
        plan: what ran.
        epsilon: of all its steps.
        seed: of the run.
        stopped: of a run that is not over, its steps and their epsilon, which holds only where it
            was fixed beforehand to stop there.
        repeats: how often the most frequent training image occurs, and the epsilon of its person.
    """
    if not plan.private:
        return f"{NOT_PRIVATE}: trained without clipping and without noise."
    sentence = (
        f"The model is ({shown_epsilon(epsilon)}, {plan.delta})-differentially private with "
        "respect to adding or removing one training example."
    )
    if repeats is not None:
        sentence += (
            f" One image occurs {repeats[0]} times in the training set: for the person in it, "
            f"epsilon is {shown_epsilon(repeats[1])}."
        )
    if plan.prior_releases:
        sentence += (
            f" That includes {len(plan.prior_releases)} earlier release(s) of the same data."
        )
    if plan.expected_runs is not None:
        sentence += (
            " That includes the choice of this run as the best of a random number of runs, "
            f"{plan.expected_runs:g} on average."
        )
    if stopped is not None:
        steps, of_these = stopped
        sentence += (
            f" It is the model of step {steps} of {plan.steps}: this epsilon is that of all "
            f"{plan.steps} steps, and holds whatever made the run stop. Epsilon "
            f"{shown_epsilon(of_these)} holds only if it was fixed beforehand to stop here, "
            "whatever the run would show."
        )
    if seed is not None:
        sentence += (
            f" But the run was SEEDED ({seed}), for research: whoever knows the seed can recompute "
            "the noise and the draws, and against them there is no privacy."
        )
    return sentence


def assumptions(
    config: Config,
    plan: PrivacyPlan,
    resumed_at: tuple[int, ...] = (),
    processes: int = 1,
    copies: int = 1,
) -> list[str]:
    """What the guarantee takes for granted."""
    if plan.n is not None:
        count = "The number of training examples N is public."
    else:
        count = "The sampling rate and the denominator were chosen without looking at the data."
    data = config.data
    but = (
        ", except that the method and the pool may have been chosen by the earlier releases"
        if plan.prior_releases
        else ""
    )
    selected = ", but for the private selection" if plan.expected_runs is not None else ""
    said = [
        count,
        "The list of classes, the image size and the settings are public and were chosen without "
        f"looking at the training images{but}; trying several settings on them costs privacy that "
        f"is not counted here{selected}.",
        "No other release of the training images was made than those counted here.",
        "Each person contributes one training example."
        if copies == 1
        else f"Each person contributes one training image, which occurs up to {copies} times. "
        "That number was counted in the training images, and is published as it is.",
        "The test split is not protected: what is measured on it is published as measured."
        if data.validation_fraction is None
        else "The validation images, a fixed share of the training images that was not trained on, "
        "are not protected: what is measured on them is published as measured.",
        "The model is the last moving average of the weights, a rule fixed before training.",
        "The files in diagnostics/ are not covered and stay where they are.",
        "Draws and noise come from the operating system's cryptographic generator, and the noise "
        "is added exactly, on a grid."
        if config.run.seed is None
        else "Nobody knows the seed.",
    ]
    if data.validation_fraction is not None or data.train_images is not None:
        said.append(
            "The training examples are those that were trained on, a part of the data set that was "
            "chosen by their places in it alone: of the others nothing is claimed."
        )
    if resumed_at:
        said.append(
            f"The run was stopped and went on after step {', '.join(map(str, resumed_at))}: nobody "
            "saw what it had computed after those steps and lost, and it went on once from each."
        )
    if plan.expected_runs is not None:
        said.append(
            "Every run of the private selection drew its settings at random from a list that was "
            "fixed before, with this plan; the best one alone, by accuracy on the "
            f"{config.data.judged_on} images, is "
            "published, and neither how many runs there were nor when they were made or how long "
            "they took. Nobody saw what a run of it that was stopped had computed and lost."
        )
    if processes > 1:
        said.append("Nobody listened to what the processes of the run sent each other.")
    if config.views.pool is not None:
        said.append("The public pool was made without any of the private images.")
    if config.model.backbone is not None:
        said.append("The backbone was made without any of the private images.")
    return said
