"""`privacy.json`: the guarantee that ran, from the plan that ran it.

Every number comes from the `PrivacyPlan` or from the accountant, none is typed in again.
"""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from dpmix.config import Config
from dpmix.models.backbone import Backbone
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.public.load import PoolFacts
from dpmix.reporting.rounding import shown_epsilon
from dpmix.reporting.statement_model import seal
from dpmix.settings import ViewConfig

NOT_PRIVATE = "NOT PRIVATE"
MECHANISM = "Poisson-subsampled Gaussian on the sum of clipped gradients (DP-SGD)"

_LIBRARIES = ("dpmix", "torch", "torchvision", "numpy", "dp-accounting")


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
        "spent_before": list(plan.spent),
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
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


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
    if plan.spent:
        sentence += f" That includes {len(plan.spent)} earlier release(s) of the same data."
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
        if plan.spent
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
