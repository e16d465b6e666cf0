"""`dpmix audit`."""

from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from dpmix.audit.audit import audit_run, refuse_unfit
from dpmix.cli.console import stdout
from dpmix.cli.flags import setting_flags_but
from dpmix.cli.progress import counting_bar, decoding_bar, share_bar
from dpmix.errors import DISTRIBUTION, DpmixError, nearest
from dpmix.files import to_json, write_text
from dpmix.reports.audit_report import AuditFindings, AuditReport, Kind
from dpmix.reports.statement import shown_epsilon
from dpmix.reports.summary import two_columns
from dpmix.runs.build import build_run
from dpmix.runs.config import Config

REFUTED = 1
KINDS = get_args(Kind)


@setting_flags_but(
    "output", "overwrite", "seed", "eval_every", "checkpoint_minutes", "checkpoint_every",
    "keep_checkpoints", "tensorboard", "wandb",
)  # fmt: skip
def audit(
    *,
    config: Annotated[
        str | None, typer.Option(help="recipe, as in dpmix train, or a run's own config.yaml")
    ] = None,
    canaries: Annotated[
        int | None,
        typer.Option(min=20, help="canaries in a run; default: up to 10,000 gradients, or 1,000 "
                     "images; more give tighter bounds"),
    ] = None,
    canary_kind: Annotated[
        str,
        typer.Option(help="gradient (strongest: the attacker sees every release), or pattern "
                     "(images; the attacker sees the trained model alone)"),
    ] = "gradient",
    runs: Annotated[int, typer.Option(min=1, help="number of full training runs")] = 1,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="probability that the lower bounds hold")
    ] = 0.95,
    report: Annotated[Path | None, typer.Option(help="JSON file to write the findings to")] = None,
    **settings: Any,
) -> None:  # fmt: skip
    """Attack a run's privacy: train it with canaries, and bound its epsilon from below.

    Takes the settings of `dpmix train`, and as long as a training for each of --runs. With gradient
    canaries it also tests the steps of the first run: noise, draws, clipping, views, and whether
    the weights follow from what was released. A bound below the claim is no proof: the audit looked
    for bugs and found none. Exit status 0: the claim was not refuted. 1: it was refuted, or a step
    was not as planned. 2: wrong settings.
    """
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        raise DpmixError(f"report '{report}' can't be written; give a file in a folder that exists")
    if canary_kind not in KINDS:
        raise DpmixError(f"unknown canary kind '{canary_kind}': {nearest(canary_kind, KINDS)}")
    console = stdout()
    chosen = Config.load(config, **settings)
    # An audit writes no folder and makes fresh random draws, whatever the recipe says.
    unseeded = chosen.run.model_copy(update={"output": None, "seed": None})
    chosen = chosen.model_copy(update={"run": unseeded})
    with decoding_bar(console) as decoding:
        run = build_run(chosen, decoding)
    refuse_unfit(run)
    with counting_bar(console, "auditing", "steps") as stepping:
        if canary_kind == "gradient":
            with share_bar(console, "embedding views") as embedding:
                run.inputs.embed(run.examples, embedding)
        found = audit_run(run, cast("Kind", canary_kind), canaries, runs, confidence, stepping)
    if report is not None:
        written = AuditReport(
            **found.model_dump(), refuted=found.violated, plan=asdict(run.plan),
            settings=run.config.published(), written=datetime.now(UTC).date().isoformat(),
            dpmix=metadata.version(DISTRIBUTION),
        )  # fmt: skip
        write_text(report, to_json(written.model_dump()))
    console.print(two_columns(_rows(found)))
    if found.violated:
        raise typer.Exit(REFUTED)


def _rows(found: AuditFindings) -> list[tuple[str, str]]:
    at = f"at {found.confidence:.4g} confidence"
    rows = [
        ("claimed", f"epsilon {shown_epsilon(found.claimed)}, delta {found.delta}"),
        ("canaries", f"{found.canaries:,} of kind {found.kind}, over {found.runs} run(s)"),
        ("one-run bound", f"epsilon at least {found.one_run:.3f} {at}"),
    ]
    if found.two_worlds is not None:
        rows.append(("two-world bound", f"epsilon at least {found.two_worlds:.3f} {at}"))
    rows += [(one.name, f"{one.verdict}: {one.found}") for one in found.invariants]
    if found.weak:
        rows.append(("power", "little: raise --canaries or --runs for a bound that says more"))
    verdict = "REFUTED: do not rely on the claim" if found.violated else "the claim was not refuted"
    return [*rows, ("verdict", verdict)]
