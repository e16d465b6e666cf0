"""The privacy statement: the guarantee of a trained model, with every number that it follows from.

Every number comes from the `PrivacyPlan` that ran or from the accountant. The statement is stored
in the header of `model.safetensors` (`dpmix.reports.files`); `privacy.json` is a copy to read.

Guarantee: a statement that `parse_statement` accepts has every field, of its type and in its range,
no other field, no field twice, and the sha256 that it was written with.
"""

import json
import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
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


def shown_sigma(sigma: float, digits: int = 4) -> str:
    """`sigma` with `digits` decimals, rounded down so that no larger noise is printed."""
    return _rounded(sigma, digits, ROUND_FLOOR)


def _rounded(value: float, digits: int, rounding: str) -> str:
    step = Decimal(1).scaleb(-digits)  # a precision of 330 digits is enough for any float
    return str(Decimal(repr(float(value))).quantize(step, rounding, Context(prec=330)))


def read_file(path: Path) -> bytes:
    """Content of a file of a run."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DpmixError(
            f"cannot read '{path}' ({error.strerror}); expected a file that a run wrote: restore it"
        ) from None


class Part(BaseModel):
    """Base of everything that is read from a run's JSON files: strict, with no unknown field."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


T = TypeVar("T", bound=Part)


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


def read_json(path: Path, kind: type[T], what: str) -> T:
    """Read a JSON file of a run; arguments and errors as of `parse_json`."""
    return parse_json(read_file(path), kind, path, what)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a name that occurs twice in one object: parsers disagree on which value counts."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"'{name}' occurs twice")


def _in_accountants_range(sigma: float) -> float:
    """Refuse noise that no accountant can count; 0 is the noise of a run without privacy."""
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


class PublicInputs(Part):
    """Everything that went into the model apart from the private images."""

    pool: PoolInput | None
    normalization: str
    backbone: BackboneInput | None


class RepeatedImage(Part):
    """The training image that occurs most often."""

    most: int = Field(ge=2, le=_MOST_COPIES, description="how often it occurs")
    epsilon: float | Infinite = Field(description="for the person in it, at delta")


class Statement(Part):
    """The guarantee of a run."""

    private: bool
    run_id: str
    written: str | None = Field(description="the day; null for a run of a private selection")
    guarantee: str
    epsilon: float | Infinite = Field(
        description="by the accountant, at delta, of all planned steps: it holds wherever the run "
        "is stopped"
    )
    epsilon_rdp: float | Infinite = Field(description="the same by Renyi DP accounting")
    epsilon_at_fixed_stop: float | None = Field(
        description="of the first `steps` steps, if the run is not complete: it holds only if it "
        "was fixed beforehand to stop there, whatever the run would show",
    )
    delta: float = Field(gt=0, lt=1)
    neighbouring_relation: Literal["add or remove one training example"]
    mechanism: str
    method: str
    accountant: Literal["PLD", "RDP"] = Field(description="of epsilon, by dp-accounting")
    sampling_rate: float = Field(gt=0, le=1, description="q, of Poisson sampling")
    denominator: float = Field(gt=0, description="divisor of the noisy sum, in examples")
    noise_multiplier: Sigma = Field(description="sigma: noise_std / sensitivity")
    max_grad_norm: float | Infinite = Field(description="C, the clipping norm")
    sensitivity: float | Infinite = Field(description="L2 sensitivity of the released sum")
    noise_std: float = Field(ge=0, description="standard deviation of the noise on each parameter")
    steps: int = Field(
        ge=1, le=_MOST_STEPS, description="number of steps after which the weights were published"
    )
    planned_steps: int = Field(ge=1, le=_MOST_STEPS, description="T, the number of planned steps")
    complete: bool
    resumed_at: list[int] = Field(description="steps after which the run was stopped and resumed")
    processes: int = Field(ge=1, description="number of processes that trained together")
    examples: int | None = Field(
        ge=1, le=_MOST_EXAMPLES, description="N, the number of training examples, if it is public"
    )
    weights_sha256: Sha256 = Field(description="of the weights, by `dpmix.reports.files`")
    config_sha256: Sha256 = Field(description="of the settings stored with the weights")
    seeded: bool
    assumptions: list[str]
    spent_before: list[Sigma] = Field(
        max_length=_MOST_SPENT, description="sigmas of earlier releases, included in epsilon"
    )
    expected_runs: float | None = Field(
        ge=1, description="mean number of runs of the private selection that chose this run"
    )
    repeats: RepeatedImage | None = Field(
        description="if the run was allowed to train on images that occur more than once"
    )
    public_inputs: PublicInputs
    versions: dict[str, str]
    sha256: Sha256 = Field(description="of all other fields, by `seal`")

    @model_validator(mode="after")
    def _makes_no_more_steps_than_planned(self) -> "Statement":
        if self.steps > self.planned_steps:
            raise ValueError(
                f"steps is {self.steps}, more than planned_steps, {self.planned_steps}"
            )
        return self


def seal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Set the sha256 of all other fields, which shows an accidental edit, but no forger."""
    rest = {name: value for name, value in fields.items() if name != "sha256"}
    return rest | {"sha256": sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def parse_statement(text: str | bytes, source: Path) -> Statement:
    """Parse a statement that was read from `source`.

    Raises:
        DpmixError: not a privacy statement, or one that was edited.
    """
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


def privacy_statement(
    settings: Settings,
    plan: PrivacyPlan,
    inputs: PublicInputs,
    *,
    steps: int,
    weights_sha256: str,
    config_sha256: str,
    run_id: str,
    resumed_at: Sequence[int] = (),
    processes: int = 1,
    copies: int = 1,
) -> Statement:
    """State the guarantee of a model after `steps` of the plan's steps.

    `copies` is how often the most frequent training image occurs.
    """
    # In a private selection, times and interruptions would tell which of its runs this one is.
    selected = plan.expected_runs is not None
    seed = settings["run"]["seed"]
    statement = Statement(
        private=plan.private,
        run_id=run_id,
        # Only the day: the time at which a run ends tells how long its steps took, and so how
        # many examples were drawn.
        written=None if selected else datetime.now(UTC).date().isoformat(),
        guarantee="",
        # Of all planned steps: a run may be stopped because of what it has shown.
        epsilon=_json_number(plan.epsilon),
        epsilon_rdp=_json_number(plan.epsilon_rdp),
        epsilon_at_fixed_stop=plan.epsilon_after(steps)
        if plan.private and steps < plan.steps
        else None,
        delta=plan.delta,
        neighbouring_relation="add or remove one training example",
        mechanism="Poisson-subsampled Gaussian on the sum of clipped gradients (DP-SGD)"
        if plan.private
        else "none: neither clipping nor noise",
        method=settings["views"]["method"],
        accountant="RDP" if selected else "PLD",
        sampling_rate=plan.sampling_rate,
        denominator=plan.denominator,
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=_json_number(plan.max_grad_norm),
        sensitivity=_json_number(plan.max_grad_norm * plan.sensitivity_multiplier),
        noise_std=plan.noise_std,
        steps=steps,
        planned_steps=plan.steps,
        complete=steps == plan.steps,
        resumed_at=[] if selected else list(resumed_at),
        processes=processes,
        examples=plan.n,
        weights_sha256=weights_sha256,
        config_sha256=config_sha256,
        seeded=seed is not None,
        assumptions=[],
        repeats=RepeatedImage(
            most=copies, epsilon=_json_number(epsilon_of_copies(plan, copies, plan.steps))
        )
        if copies > 1
        else None,
        spent_before=list(plan.prior_releases),
        expected_runs=plan.expected_runs,
        public_inputs=inputs,
        versions=versions(),
        sha256="0" * 64,
    )
    sentences = {
        "guarantee": _guarantee(statement, seed),
        "assumptions": _assumptions(statement, settings),
    }
    sealed = seal(statement.model_dump(mode="json") | sentences)
    return statement.model_copy(update=sentences | {"sha256": sealed["sha256"]})


def statement_text(statement: Statement) -> str:
    """The statement as JSON."""
    return to_json(statement.model_dump(mode="json"))


def _json_number(value: float) -> float | Infinite:
    return "inf" if math.isinf(value) else value


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a run's numbers come from."""
    own = {"python": platform.python_version(), "dpmix": version(DISTRIBUTION)}
    libraries = ("torch", "torchvision", "numpy", "dp-accounting")
    return own | {name: version(name) for name in libraries}


def public_inputs(
    settings: Settings, pool: PoolFacts | None, backbone: Backbone | None
) -> PublicInputs:
    """Everything public that goes into the model of a run with these settings."""
    views, pool_input, backbone_input = settings["views"], None, None
    if pool is not None:
        role = views["pool_role"]
        use = (
            {"epochs": views["pretrain_epochs"]}
            if role == "pretrain"
            else {"draw": views["pool_draw"]}
        )
        pool_input = PoolInput(role=role, **pool.as_dict(), **use)
    if backbone is not None:
        backbone_input = BackboneInput(
            name=backbone.name,
            provenance=backbone.provenance,
            licence=backbone.licence,
            weights_sha256=settings["input"]["backbone_sha256"],
            embedding_size=backbone.embedding_size,
            input_size=backbone.module.input_size,
            trained_privately=settings["model"]["trainable"],
        )
    return PublicInputs(
        pool=pool_input,
        normalization=settings["data"]["normalization"] or "the backbone's own",
        backbone=backbone_input,
    )


def _guarantee(stated: Statement, seed: int | None) -> str:
    """The guarantee in a few sentences, or that there is none."""
    if not stated.private:
        return f"{NOT_PRIVATE}: trained without clipping and without noise."
    sentences = [
        f"The model is ({shown_epsilon(stated.epsilon)}, {stated.delta})-differentially private "
        "with respect to adding or removing one training example."
    ]
    if stated.repeats is not None:
        sentences.append(
            f"One image occurs {stated.repeats.most} times in the training set: for the person in "
            f"it, epsilon is {shown_epsilon(stated.repeats.epsilon)}."
        )
    if stated.spent_before:
        sentences.append(
            f"That includes {len(stated.spent_before)} earlier release(s) of the same data."
        )
    if stated.expected_runs is not None:
        sentences.append(
            "That includes the choice of this run as the best of a random number of runs, "
            f"{stated.expected_runs:g} on average."
        )
    if stated.epsilon_at_fixed_stop is not None:
        sentences.append(
            f"It is the model of step {stated.steps} of {stated.planned_steps}: this epsilon is "
            f"that of all {stated.planned_steps} steps, and holds whatever made the run stop. "
            f"Epsilon {shown_epsilon(stated.epsilon_at_fixed_stop)} holds only if it was fixed "
            "beforehand to stop here, whatever the run would show."
        )
    if seed is not None:
        sentences.append(
            f"But the run was SEEDED ({seed}), for research: anyone who knows the seed can "
            "recompute the noise and the draws, and against them there is no privacy."
        )
    return " ".join(sentences)


def _assumptions(stated: Statement, settings: Settings) -> list[str]:
    """What the guarantee assumes, in sentences; none if the run is not private."""
    if not stated.private:
        return []
    data, selected = settings["data"], stated.expected_runs is not None
    validates = data["validation_fraction"] is not None
    chosen_by = (
        ", except that the method and the pool may have been chosen by the earlier releases"
        if stated.spent_before
        else ""
    )
    counted = ", except for the private selection" if selected else ""
    lines = [
        "The number of training examples N is public."
        if stated.examples is not None
        else "The sampling rate and the denominator were chosen without looking at the data.",
        "The list of classes, the image size and the settings are public and were chosen without "
        f"looking at the training images{chosen_by}; trying several settings on them costs privacy "
        f"that is not counted here{counted}.",
        "No other release of the training images was made than those counted here.",
        f"Each person contributes one training image, which occurs up to {stated.repeats.most} "
        "times. That number was counted in the training images, and is published as it is."
        if stated.repeats
        else "Each person contributes one training example.",
        "The validation images, a fixed share of the training images that was not trained on, are "
        "not protected: what is measured on them is published as measured."
        if validates
        else "The test split is not protected: what is measured on it is published as measured.",
        "The model is the last moving average of the weights, a rule fixed before training.",
        "The files in diagnostics/ are not covered and stay where they are.",
        "Nobody knows the seed."
        if stated.seeded
        else "Draws and noise come from the operating system's cryptographic generator, and the "
        "noise is added exactly, on a grid.",
    ]
    if validates or data["train_images"] is not None:
        lines.append(
            "The training examples are those that were trained on, a part of the data set that was "
            "chosen by their places in it alone: nothing is claimed for the others."
        )
    if stated.resumed_at:
        lines.append(
            f"The run was stopped and resumed after step {', '.join(map(str, stated.resumed_at))}: "
            "nobody saw what it had computed after those steps and lost, and it was resumed once "
            "from each."
        )
    if selected:
        lines.append(
            "Every run of the private selection drew its settings at random from a list that was "
            "fixed before, with this plan; the best one alone, by accuracy on the "
            f"{'validation' if validates else 'test'} images, is published, and neither how many "
            "runs there were nor when they were made or how long they took. Nobody saw what a run "
            "of it that was stopped had computed and lost."
        )
    if stated.processes > 1:
        lines.append("Nobody listened to what the processes of the run sent each other.")
    if stated.public_inputs.pool is not None:
        lines.append("The public pool was made without any of the private images.")
    if settings["model"]["backbone"] is not None:
        lines.append("The backbone was made without any of the private images.")
    return lines
