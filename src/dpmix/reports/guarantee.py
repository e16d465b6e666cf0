"""What a run claims: every number comes from the `PrivacyPlan` that ran or from the accountant."""

import math
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version

from dpmix.clipping.vectorized import MAX_CPU_VIEWS, MAX_DEVICE_VIEWS
from dpmix.data.window import OWN
from dpmix.errors import DISTRIBUTION
from dpmix.models.backbones.backbone import Backbone
from dpmix.pool.load import PoolFacts
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.reports.statement import (
    NOT_PRIVATE,
    ONE,
    BackboneInput,
    Infinite,
    Membership,
    PoolInput,
    PublicInputs,
    RepeatedImage,
    Settings,
    Statement,
    seal,
    shown_epsilon,
)

SEVERAL_IMAGES = (2, 3, 5, 10)


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
        membership=Membership.of(plan) if plan.private else None,
        neighbouring_relation=plan.neighbouring_relation,
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
        float32_sums=settings["run"]["engine"] == "bookkeeping",
        assumptions=[],
        repeats=RepeatedImage(
            most=copies, epsilon=_json_number(epsilon_of_copies(plan, copies, plan.steps))
        )
        if copies > 1
        else None,
        several_images=epsilon_of_several(plan) if plan.private and plan.unit == "image" else None,
        spent_before=list(plan.prior_releases),
        expected_runs=plan.expected_runs,
        public_inputs=inputs,
        versions=versions(),
        sha256="0" * 64,
    )
    sentences = {
        "guarantee": _guarantee(statement, settings),
        "assumptions": _assumptions(statement, settings),
    }
    sealed = seal(statement.model_dump(mode="json") | sentences)
    return statement.model_copy(update=sentences | {"sha256": sealed["sha256"]})


@lru_cache(maxsize=4)
def epsilon_of_several(plan: PrivacyPlan) -> dict[str, float | Infinite]:
    """Epsilon of a person with several training images, by their number, at the plan's delta."""
    return {str(m): _json_number(epsilon_of_copies(plan, m, plan.steps)) for m in SEVERAL_IMAGES}


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
        role, use = views["pool_role"], {"draw": views["pool_draw"]}
        if role == "pretrain":
            use = {"epochs": views["pretrain_epochs"]}
        pool_input = PoolInput(role=role, **pool.as_dict(), **use)
    if backbone is not None:
        backbone_input = BackboneInput(
            name=backbone.name,
            provenance=backbone.provenance,
            licence=backbone.licence,
            weights_sha256=settings["input"]["backbone_sha256"],
            embedding_size=backbone.embedding_size,
            input_size=backbone.module.input_size,
            trained_privately=_trained(settings["model"]),
            head_start=settings["model"]["head_start"] or "random",
        )
    return PublicInputs(
        pool=pool_input,
        normalization=settings["data"]["normalization"] or "the backbone's own",
        backbone=backbone_input,
    )


def _trained(model: Settings) -> str:
    steps = model.get("head_steps")
    if model["model"] is not None:
        return f"{model['model']}, on its maps"
    return str(model["trainable"]) if steps is None else f"head for {steps} steps, then all"


def _guarantee(stated: Statement, settings: Settings) -> str:
    """The guarantee in a few sentences, or that there is none."""
    if not stated.private:
        return f"{NOT_PRIVATE}: trained without clipping and without noise."
    seed, spend = settings["run"]["seed"], settings["privacy"].get("spend")
    sentences = [
        f"The model is ({shown_epsilon(stated.epsilon)}, {stated.delta})-differentially private "
        f"with respect to adding or removing one {ONE[stated.unit]}."
    ]
    if stated.planned_steps == 0:
        sentences.append("No training image was used: it is the start that public inputs gave.")
    if stated.repeats is not None:
        sentences.append(
            f"One image occurs {stated.repeats.most} times in the training set: for the person in "
            f"it, epsilon is {shown_epsilon(stated.repeats.epsilon)}."
        )
    earlier = len(stated.spent_before) - (spend is not None)
    if earlier:
        sentences.append(f"That includes {earlier} earlier release(s) of the same data.")
    if spend is not None:
        sentences.append(
            f"That includes a noisy count of the {stated.unit}s of each class (epsilon "
            f"{shown_epsilon(spend)} alone), by which the classes are weighed."
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


def _several(stated: Statement) -> str:
    """Epsilon of a person with several images: "2 images 6.71, 3 images 10.98"."""
    several = stated.several_images or {}
    return ", ".join(f"{m} images {shown_epsilon(float(e))}" for m, e in several.items())


def _assumptions(stated: Statement, settings: Settings) -> list[str]:
    """What the guarantee assumes, in sentences; none if the run is not private."""
    if not stated.private:
        return []
    data, selected = settings["data"], stated.expected_runs is not None
    by_person = stated.unit == "person"
    validates = data["validation_fraction"] is not None
    chosen_by = (
        ", except that the method and the pool may have been chosen by the earlier releases"
        if len(stated.spent_before) > (settings["privacy"].get("spend") is not None)
        else ""
    )
    counted = ", except for the private selection" if selected else ""
    lines = [
        f"The number of training {'person' if by_person else 'example'}s N is public."
        if stated.examples is not None
        else "The sampling rate and the denominator were chosen without looking at the data.",
        "The list of classes, the image size and the settings are public and were chosen without "
        f"looking at the training images{chosen_by}; trying several settings on them costs privacy "
        f"that is not counted here{counted}.",
        "No other release of the training images was made than those counted here.",
        f"Each person contributes one training image, which occurs up to {stated.repeats.most} "
        "times. That number was counted in the training images, and is published as it is."
        if stated.repeats
        else "The list of persons is right: someone under two names, or who can be seen in an "
        "image of another person, has a larger epsilon."
        if by_person
        else "The guarantee is for one training image. For a person with more, epsilon is larger "
        f"({_several(stated)}).",
        "The validation images, a fixed share of the training images that was not trained on, are "
        "not protected: what is measured on them is published as measured."
        if validates
        else "The test split is not protected: what is measured on it is published as measured.",
        "The model is the last moving average of the weights, a rule fixed before training.",
        "The files in diagnostics/ are not covered and stay where they are.",
        "Nobody knows the seed."
        if stated.seeded
        else "Draws and noise come from a cryptographic stream (AES-256) with keys from the "
        "operating system, and the noise is added exactly, on a grid.",
    ]
    prevalences = (settings["input"] or {}).get("prevalences")
    if prevalences and settings["privacy"]["spend"] is None:
        lines.append(
            "The prevalences of the classes are public numbers: nobody counted the training images "
            "for them."
        )
    if stated.float32_sums:
        lines.append(
            f"Clipped gradients were added in float32, those of up to {MAX_CPU_VIEWS} views at a "
            f"time ({MAX_DEVICE_VIEWS:,} on a GPU): rounding can add to the sensitivity (engine "
            "bookkeeping)."
        )
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
    if settings["data"]["window"] not in (None, OWN):
        lines.append("The intensity window was chosen without looking at the private images.")
    if settings["model"]["backbone"] is not None:
        lines.append("The backbone was made without any of the private images.")
    return lines
