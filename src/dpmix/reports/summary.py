"""The short tables that the command line prints."""

from rich.table import Table

from dpmix.data.splits import JudgedOn
from dpmix.pool.load import PoolFacts
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.privacy.unit import Unit
from dpmix.reports.facts import found_in_words
from dpmix.reports.measured import below_start, estimate, headline, measured_rows, worst_groups
from dpmix.reports.statement import NOT_PRIVATE, Membership, shown_epsilon, shown_sigma
from dpmix.training.evaluate import Evaluation

Row = tuple[str, str]


def add_or_remove(unit: Unit) -> str:
    """The neighbouring relation in a few words."""
    return f"add/remove one {'example' if unit == 'image' else 'person'}"


def two_columns(rows: list[Row]) -> Table:
    """A borderless table of names and values."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def rows_under(header: list[str], rows: list[list[str]]) -> Table:
    """A borderless table of rows under their names."""
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def plan_rows(plan: PrivacyPlan, method: str, seed: int | None, copies: int = 1) -> list[Row]:
    """The plan, one fact per line."""
    rows = [("privacy", f"{NOT_PRIVATE}: no clipping, no noise (epsilon inf)")]
    if plan.private:
        epsilon, sigma = shown_epsilon(plan.epsilon), shown_sigma(plan.noise_multiplier)
        rows = [("privacy", f"epsilon {epsilon}, delta {plan.delta} ({add_or_remove(plan.unit)})")]
        found = found_in_words(Membership.of(plan))
        rows.append(("any test", f"of whether one {plan.unit} took part finds at most {found}"))
        if copies > 1:
            rows.append(repeats_row(copies, epsilon_of_copies(plan, copies, plan.steps)))
        rows.append(("noise", f"sigma {sigma}, clipping norm C {plan.max_grad_norm:g}"))
    if plan.private and plan.steps == 0:
        none = "0: the start is published, and no training image was used"
        return [*rows[:-1], ("steps", none), *_prior_rows(plan)]
    batch, divisor = plan.expected_batch_size, f"{plan.denominator:g}"
    known = [] if batch is None else [f"expected batch {batch:g}"]
    if batch is None or f"{batch:g}" != divisor:
        known.append(f"sums divided by {divisor}")
    rows += [
        ("sampling", ", ".join([f"q {plan.sampling_rate:.6g}", *known])),
        ("steps", str(plan.steps)),
        ("method", method),
    ]
    if plan.private and plan.sensitivity_multiplier > 1:
        times = plan.sensitivity_multiplier
        rows.append(("sensitivity", f"{times}C (the noise is multiplied by it)"))
    rows += _prior_rows(plan)
    if plan.private and plan.expected_runs is not None:
        runs = f"best of {plan.expected_runs:g} runs on average, included in epsilon"
        rows.append(("selection", runs))
    if seed is not None:
        rows.append(("seed", f"{seed}: a RESEARCH run, its noise can be recomputed from the seed"))
    return rows


def _prior_rows(plan: PrivacyPlan) -> list[Row]:
    if not (plan.private and plan.prior_releases):
        return []
    return [("prior releases", f"{len(plan.prior_releases)}, included in epsilon")]


def repeats_row(copies: int, epsilon: float) -> Row:
    """The training image that occurs most often, and the epsilon of the person in it."""
    shown = shown_epsilon(epsilon)
    return "repeats", f"one image occurs {copies} times: epsilon {shown} for the person in it"


def pool_rows(facts: PoolFacts | None, use: str) -> list[Row]:
    """The public pool in one line, if one is read; `use` says what for."""
    if facts is None:
        return []
    parts = [
        f"{facts.name}: {facts.images} images, {use}",
        f"{facts.left_out} left out" if facts.left_out else "",
        f"{facts.unlabelled} without a label" if facts.unlabelled else "",
        f"none of class {', '.join(facts.classes_without)}" if facts.classes_without else "",
    ]
    return [("public pool", "; ".join(filter(None, parts)))]


FAILED = "FAILED"


def divergence(loss: float, judged_on: JudgedOn) -> str:
    """Why a run that diverged failed, and what helps."""
    return (
        f"the training diverged, so its accuracy means nothing: {judged_on} loss {loss:.3g}; lower "
        "--learning-rate"
    )


def evaluation_rows(
    evaluation: Evaluation, judged_on: JudgedOn, start: float | None = None
) -> list[Row]:
    """What was measured on the test or validation images.

    Args:
        evaluation: of the trained model.
        judged_on: which images.
        start: score before the first private step.
    """
    before = []
    if start is not None:
        before = [("before any private image", f"{start:.2%} (epsilon 0)")]
        if below := below_start(evaluation, start, terminal_percent):
            before.append(("no gain", below))
    found, share = evaluation, "of" if evaluation.accuracy is not None else "on"
    whole = f"{found.score:.2%} {share} {found.images} images (EMA weights)"
    if (interval := headline(found)) is not None:
        whole += f", {interval.low:.1%} to {interval.high:.1%}"
    error = f"{found.calibration_error:.2%}"
    if found.measures is not None:
        error = estimate(found.measures.overall["calibration_error"], terminal_percent)
    return [
        *([(FAILED, divergence(found.loss, judged_on))] if found.diverged else []),
        *measured_rows(found, (f"{judged_on} {found.measure}", whole), before, terminal_percent),
        ("calibration", f"confidence is off by {error} on average"),
        *worst_groups(found, terminal_percent),
    ]


def terminal_percent(share: float, digits: int) -> str:
    """A share as the terminal shows it."""
    return f"{share:.{digits}%}"
