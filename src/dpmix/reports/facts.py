"""What a run's public files say, in words and as rows of names and values.

The model card, the page of one run and the comparison of several show the same rows.

Guarantee: no path is in them, and nothing that was computed from private images without noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpmix.data.named import public_name
from dpmix.data.splits import Splits
from dpmix.privacy.unit import Unit
from dpmix.reports.audit_report import AuditReport
from dpmix.reports.measured import below_start, estimate, headline, measured_rows
from dpmix.reports.metrics import Metrics
from dpmix.reports.statement import (
    NOT_PRIVATE,
    Membership,
    Settings,
    Statement,
    shown_epsilon,
    shown_share,
    shown_sigma,
)
from dpmix.training.measures import Estimate, share_interval
from dpmix.views.spec import ViewSpec

Row = tuple[str, str]


@dataclass(frozen=True)
class RunFacts:
    """A run, as anyone may know it; `audit` is of these settings, if one was made."""

    settings: Settings
    statement: Statement
    metrics: Metrics
    audit: AuditReport | None = None

    @property
    def data_name(self) -> str:
        """The public name of the data set; never a part of a path."""
        return public_name(self.settings["data"]["data"])

    @property
    def views(self) -> ViewSpec:
        """The views of one example."""
        return ViewSpec.from_settings(self.settings["views"], flip=False)


def meaning(found: Membership, unit: Unit) -> str:
    """The guarantee in two sentences for people who do not know epsilon."""
    known, among = "every other training image", "one given image was among them"
    if unit == "person":
        known, among = "all images of every other person", "one given person was among them"
    return (
        f"Someone who knows this model and {known}, and guesses at even odds whether {among}, is "
        f"right at most {shown_share(found.best_guess)} of the time; blind guessing is right 50 % "
        "of the time. If they may say yes in only 1 % of the cases where the answer is no, they "
        f"say yes in at most {shown_share(found.found_at_1_percent)} of those where it is yes."
    )


def found_in_words(found: Membership) -> str:
    """The bounds on the true-positive rate: "4.56 % at 1 % false positives, 0.77 % at 0.1 %"."""
    often, seldom = map(shown_share, (found.found_at_1_percent, found.found_at_0_1_percent))
    return f"{often} at 1 % false positives, {seldom} at 0.1 %"


def _nearest(found: Membership) -> str | None:
    if found.mu is None or found.mu_gap is None:
        return None
    off = shown_epsilon(found.mu_gap)
    return f"mu {shown_epsilon(found.mu)}; the error rates of its tests are off by at most {off}"


def claimed_epsilon(statement: Statement) -> str:
    """Epsilon as claimed: of all planned steps; of fewer only with the condition it rests on."""
    whole, at_stop = shown_epsilon(float(statement.epsilon)), statement.epsilon_at_fixed_stop
    if at_stop is None:
        return whole
    return f"{whole} ({shown_epsilon(at_stop)} only if its stop was fixed beforehand)"


def audit_verdict(audit: AuditReport) -> str:
    """The result of an audit in two sentences."""
    at = f"at {100 * audit.confidence:g} % confidence"
    bound, claim = f"{audit.lower_bound:.3f}", shown_epsilon(audit.claimed)
    if audit.broken:
        return (
            f"REFUTED: the training did not do what its plan says ({', '.join(audit.broken)}). "
            "Do not rely on the guarantee."
        )
    if audit.refuted:
        return (
            f"REFUTED: the attack shows that epsilon is at least {bound} {at}, more than the "
            f"claimed {claim}. Do not rely on the guarantee."
        )
    power = " The attack had little power: use more canaries or runs." if audit.weak else ""
    return (
        f"Not refuted: the strongest attack shows an epsilon of at least {bound} {at}; the claim "
        f"is {claim}. This is no proof: the audit looked for bugs and found none.{power}"
    )


def views_in_words(spec: ViewSpec) -> str:
    """Which views of an example are averaged: "16 self-augmentations, 18 mixtures"."""
    of = "" if spec.unit == "image" else f" of up to {spec.images_per_person} of their images"
    if spec.method == "none":
        return f"up to {spec.base_views} images as they are" if of else "the image as it is"
    words = f"{spec.k_base} self-augmentations{of}"
    if spec.extra_augment != "none":
        words += f", each after {spec.extra_augment}"
    if spec.public_views:
        words += f", {spec.public_views} public images"
    if spec.mixed_views:
        words += f", {spec.mixed_views} mixtures"
    return words if spec.average == "all" else f"{words}; only the mixtures are averaged"


_FIT = "padded with their own border where a cut would lose more than a tenth"


def pictures_in_words(settings: Settings, splits: Splits, spec: ViewSpec) -> str:
    """Size, fit, colours and mirroring of the images, and which ones are held out."""
    data, (channels, height, width) = settings["data"], splits.train.image_shape
    colours, window = "grey" if channels == 1 else "RGB", data["window"]
    words = [
        f"{height}x{width} as stored"
        if data["image_size"] is None
        else f"resized to {height}x{width} ({_FIT})",
        f"{colours} as stored" if data["channels"] is None else f"converted to {colours}",
        *([] if window is None else [f"grey ones of more than 8 bits through the window {window}"]),
        "mirrored at random (--no-flip turns that off)"
        if spec.flip and spec.method != "none"
        else "not mirrored",
    ]
    return f"{', '.join(words)}; {splits.judged_on} images: {splits.held_out}"


def percent(share: float, digits: int = 2) -> str:
    """A share as a percentage."""
    return f"{100 * share:.{digits}f} %"


def number(value: float | str | None) -> str:
    """A number as people write it; "inf" and "nan", which JSON has as text, unchanged."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _rows(values: Mapping[str, Any]) -> list[Row]:
    return [(name, value) for name, value in values.items() if value is not None]


def guarantee_rows(run: RunFacts) -> list[Row]:
    """The numbers of the guarantee."""
    told = run.statement
    if not told.private:
        return _rows({
            "epsilon": NOT_PRIVATE, "mechanism": told.mechanism,
            "sampling rate q": number(told.sampling_rate),
            "steps T": f"{number(told.steps)} of {number(told.planned_steps)}",
        })  # fmt: skip
    name, repeats, found = told.accountant, told.repeats, told.membership
    once = " that occurs once" if repeats else ""
    return _rows({
        f"epsilon ({name} accounting)": claimed_epsilon(told),
        "epsilon (RDP accounting), looser":
            shown_epsilon(float(told.epsilon_rdp)) if name == "PLD" else None,
        "choice": told.expected_runs and
            f"best of {number(told.expected_runs)} runs on average, included in epsilon",
        "epsilon of the person in the most frequent image": repeats and
            f"{shown_epsilon(float(repeats.epsilon))} (it occurs {repeats.most} times)",
        "epsilon of a person with several images (how many they have is not stated here)":
            told.several_images and "; ".join(
                f"{m}: {shown_epsilon(float(e))}" for m, e in told.several_images.items()
            ),
        "delta": str(told.delta),
        f"most that any test of whether one {told.unit}{once} took part finds":
            found and found_in_words(found),
        "nearest Gaussian mechanism (GDP), up to delta": found and _nearest(found),
        "neighbouring data sets": told.neighbouring_relation,
        "mechanism": told.mechanism,
        "noise multiplier sigma": shown_sigma(told.noise_multiplier),
        "sampling rate q": number(told.sampling_rate),
        "steps T": f"{number(told.steps)} of {number(told.planned_steps)}",
        "persons N" if told.unit == "person" else "training images N":
            "not stated" if told.examples is None else number(told.examples),
        "sum divided by": number(told.denominator),
        "clipping norm C": number(told.max_grad_norm),
        "sensitivity of the sum": number(told.sensitivity),
        "noise on each weight": f"standard deviation {shown_sigma(told.noise_std)}",
        "accountant": f"dp-accounting {told.versions['dp-accounting']}",
        "sigma of earlier releases, included in epsilon":
            ", ".join(map(str, told.spent_before)) or None,
    })  # fmt: skip


def accuracy_rows(run: RunFacts) -> list[Row]:
    """What was measured on images that the guarantee does not protect."""
    found, audit = run.metrics, run.audit
    failed = "FAILED, diverged: " if found.diverged else ""
    start = [("before any private image (epsilon 0)", percent(found.start_score))]
    below = below_start(found, found.start_score, percent)
    if below and run.statement.planned_steps:
        start.append(("no gain", below))
    first = found.measure, f"{failed}{score_text(found)}"
    persons = run.statement.unit == "person" and found.measures is None
    error = percent(found.calibration_error)
    if found.measures is not None:
        error = estimate(found.measures.overall["calibration_error"], percent)
    return measured_rows(found, first, start, percent) + _rows({
        "measured on": f"{number(found.images)} {found.judged_on} images"
            + (", those of one person counted as independent" if persons else ""),
        "calibration error (mean gap of confidence and accuracy)": error,
        "loss": number(found.evaluation_loss),
        "audit": audit and f"{'REFUTED' if audit.refuted else 'not refuted'}: epsilon is at least "
            f"{audit.lower_bound:.3f}",
    })  # fmt: skip


def score_text(found: Metrics) -> str:
    """The score with its 95 % interval, where that is known."""
    if (whole := headline(found)) is not None:
        return estimate(whole, percent)
    if found.accuracy is None:
        return percent(found.score)
    low, high = share_interval(round(found.accuracy * found.images), found.images)
    return estimate(Estimate(found.accuracy, low, high), percent)


def model_rows(run: RunFacts) -> list[Row]:
    """How the model was made, from what, and the hashes of its files."""
    told, found, settings = run.statement, run.metrics, run.settings
    inputs, optimizer = told.public_inputs, settings["optimizer"]
    pool, backbone = inputs.pool, inputs.backbone
    shape = " x ".join(map(str, settings["input"]["image_shape"]))
    momentum = optimizer["momentum"]
    return _rows({
        "method": told.method,
        "balance of the classes": _balance(settings),
        f"views of {'a person' if told.unit == 'person' else 'an example'}":
            views_in_words(run.views),
        "model": f"{found.model}, {number(found.parameters)} trained parameters",
        "data": run.data_name,
        "input": f"uint8 {shape} (C x H x W), normalised by {inputs.normalization}",
        "window of grey values over 8 bits": settings["data"]["window"],
        "labels" if found.accuracy is None else "classes":
            number(len(settings["input"]["class_names"])),
        "weights": found.weights,
        "optimizer": f"{optimizer['optimizer']}, rate {optimizer['learning_rate']}, "
            f"{'' if momentum is None else f'momentum {momentum}, '}{optimizer['schedule']}",
        "engine": found.engine,
        "machine": found.machine
            + (f", {told.processes} processes" if told.processes > 1 else ""),
        "versions": ", ".join(f"{name} {one}" for name, one in told.versions.items()),
        "pretraining":
            "on the public pool alone" if pool and pool.role == "pretrain" else "none",
        "backbone": backbone and f"{backbone.name}: {backbone.provenance}; "
            f"{backbone.embedding_size} features at {backbone.input_size} pixels; trained "
            f"privately: {backbone.trained_privately}",
        "start of the head": backbone and backbone.head_start,
        "licence of the backbone": backbone and backbone.licence,
        **(_pool_rows(pool.model_dump()) if pool else {}),
        "sha256 of the weights": told.weights_sha256,
        "sha256 of the settings": told.config_sha256,
        "seal of the statement": told.sha256,
        "sha256 of the backbone's weights": backbone and backbone.weights_sha256,
        "sha256 of the pool's images": pool and pool.contents_sha256,
    })  # fmt: skip


def _balance(settings: Settings) -> str | None:
    """What frequent classes count less by, if they do."""
    found = settings["input"].get("prevalences")
    if not found:
        return None
    spend, names = settings["privacy"]["spend"], settings["input"]["class_names"]
    source = f"a count that cost epsilon {spend:g}" if spend is not None else "public numbers"
    shares = ", ".join(f"{name} {share:.1%}" for name, share in zip(names, found, strict=True))
    return f"{settings['privacy']['balance']} by prevalences from {source}: {shares}"


def _pool_rows(pool: Mapping[str, Any]) -> dict[str, str]:
    use = f"{pool['epochs']} epochs" if pool["role"] == "pretrain" else f"drawn {pool['draw']}"
    origin = f"drawn by {pool['model']}" if pool["model"] else "not stated: no manifest"
    return {
        "public pool": f"{number(pool['images'])} images ({pool['left_out']} left out, "
        f"{pool['unlabelled']} without a label), role {pool['role']}, {use}",
        "origin of the pool": f"{origin} (licence: {pool['licence'] or 'not stated'})",
    }
