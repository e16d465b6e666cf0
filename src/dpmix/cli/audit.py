"""`dpmix audit`."""

from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from dpmix.assembly import Assembly, assemble
from dpmix.atomic_files import write_text
from dpmix.audit.gradient_audit import GradientAudit
from dpmix.audit.image_canaries import ImageAudit, ImageKind
from dpmix.audit.run_audit import audit_by_gradients, audit_by_images, refuse_unfit
from dpmix.cli.console import stdout
from dpmix.cli.flags import setting_flags_but
from dpmix.cli.progress import counting_bar, decoding_bar, share_bar
from dpmix.config import Config
from dpmix.errors import DpmixError, nearest
from dpmix.experiments.recipes import recipe_path
from dpmix.fit import embedded_views
from dpmix.reporting.audit_model import WEAK, Finding
from dpmix.reporting.rounding import shown_epsilon
from dpmix.reporting.summary import two_columns
from dpmix.training.json_text import to_json

REFUTED = 1
KINDS = ("gradient", *get_args(ImageKind))


@setting_flags_but(
    "output", "overwrite", "seed", "eval_every", "checkpoint_minutes", "checkpoint_every",
    "keep_checkpoints", "tensorboard", "wandb", "log_private_diagnostics",
)  # fmt: skip
def audit(
    *,
    config: Annotated[
        str | None,
        typer.Option(help="as in dpmix train; a run's own config.yaml audits that run's settings"),
    ] = None,
    canaries: Annotated[
        int | None,
        typer.Option(
            min=20,
            help="planted in a run; the more, the tighter the bounds; default: up to 10,000 "
            "gradients, or 1,000 images",
        ),
    ] = None,
    canary_kind: Annotated[
        str,
        typer.Option(
            help="gradient (strongest: sees every release), or images, of which the trained model "
            "alone is seen: mislabelled (test images), pattern"
        ),
    ] = "gradient",
    runs: Annotated[int, typer.Option(min=1, help="of the whole training")] = 1,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="of the lower bounds")
    ] = 0.95,
    report: Annotated[Path | None, typer.Option(help="JSON file for what was found")] = None,
    **settings: Any,
) -> None:
    """Attack a run's own privacy: train it with canaries, and bound its epsilon from below.

    Takes the settings of `dpmix train`, and as long, for each of --runs. With gradient canaries it
    also tests the steps of the first run: noise, draws, clipping, views, and whether the weights
    follow from what was released. A bound below the claim proves nothing, but has looked for bugs.
    Exit status 0: the claim was not refuted. 1: it was, or a step was not as planned. 2: settings
    that can't be meant.
    """
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        raise DpmixError(f"report '{report}' can't be written; give a file in a folder that exists")
    if canary_kind not in KINDS:
        raise DpmixError(f"unknown canary kind '{canary_kind}': {nearest(canary_kind, KINDS)}")
    console = stdout()
    chosen = Config.load(recipe_path(config) if config is not None else None, **settings)
    # An audit writes no folder, and throws its own coins, whatever a run's recipe says.
    its_own = chosen.run.model_copy(update={"output": None, "seed": None})
    chosen = chosen.model_copy(update={"run": its_own})
    with decoding_bar(console) as decoding:
        parts = assemble(chosen, decoding, recorded=True)
    refuse_unfit(parts)
    with counting_bar(console, "auditing", "steps") as stepping:
        if canary_kind == "gradient":
            with share_bar(console, "embedding views") as embedding:
                views = embedded_views(parts, embedding)
            found: GradientAudit | ImageAudit = audit_by_gradients(
                parts, views, canaries, runs, confidence, stepping
            )
        else:
            kind = cast("ImageKind", canary_kind)
            found = audit_by_images(parts, kind, canaries, runs, confidence, stepping)
    if report is not None:
        write_text(report, to_json(_facts(found, canary_kind, parts)))
    console.print(two_columns(_rows(found, canary_kind)))
    if found.violated:
        raise typer.Exit(REFUTED)


def _facts(found: GradientAudit | ImageAudit, kind: str, parts: Assembly) -> dict[str, Any]:
    return {
        "kind": kind, "refuted": found.violated, **asdict(found), "plan": asdict(parts.plan),
        "settings": parts.config.published(), "written": datetime.now(UTC).date().isoformat(),
        "dpmix": metadata.version("dpmix"),
    }  # fmt: skip


def _rows(found: GradientAudit | ImageAudit, kind: str) -> list[tuple[str, str]]:
    at = f"at {found.confidence:.4g} confidence"
    rows = [
        ("claimed", f"epsilon {shown_epsilon(found.claimed)}, delta {found.delta}"),
        ("canaries", f"{found.canaries:,} of kind {kind}, over {found.runs} run(s)"),
        ("one-run bound", f"epsilon at least {found.one_run:.3f} {at}"),
    ]
    if isinstance(found, GradientAudit):
        rows.append(("two-world bound", f"epsilon at least {found.two_worlds:.3f} {at}"))
        rows += [
            (one.name, f"{Finding(**asdict(one)).verdict}: {one.found}") for one in found.invariants
        ]
    if found.lower_bound < WEAK * found.claimed:
        rows.append(("power", "little: raise --canaries or --runs for a bound that says more"))
    verdict = "REFUTED: do not rely on the claim" if found.violated else "the claim was not refuted"
    return [*rows, ("verdict", verdict)]
