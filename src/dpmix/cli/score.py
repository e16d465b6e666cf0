"""`dpmix pool score`: what a public pool knows about private images, for a little epsilon."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.table import Table

from dpmix.cli.console import stdout
from dpmix.cli.pool import PoolLabels, PoolPath, PoolUnmapped, pool
from dpmix.cli.progress import counting_bar, decoding_bar, share_bar
from dpmix.errors import DpmixError
from dpmix.files import to_json, write_text
from dpmix.pool.score import (
    PoolScore,
    Share,
    count_answers,
    refuse_uninformative,
    release_counts,
)
from dpmix.privacy.accounting import calibrate_sigma, epsilon_gaussian
from dpmix.privacy.prior_releases import ReleaseRecord
from dpmix.privacy.randomness import SecureStream
from dpmix.privacy.unit import NEIGHBOURS
from dpmix.reports.summary import two_columns
from dpmix.runs.build import Run, build_run
from dpmix.runs.config import Config

_SHOWN = 10


@pool.command()
def score(
    path: PoolPath,
    data: Annotated[str, typer.Option(help="the private images, as in dpmix train")],
    spend: Annotated[float, typer.Option(help="epsilon of the count")] = 0.1,
    delta: Annotated[
        float | None, typer.Option(help="delta of the count; default: well below 1/N")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="JSON report, for --prior-release; default NAME-score.json"),
    ] = None,
    pool_labels: PoolLabels = None,
    pool_unmapped: PoolUnmapped = "refuse",
    backbone: Annotated[
        str | None, typer.Option(help="frozen public features, as in dpmix train")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="share of test images, as in dpmix train")
    ] = None,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="leave out unreadable images and count them")
    ] = False,
    window: Annotated[
        str | None, typer.Option(help="of 16-bit and DICOM images, as in dpmix train")
    ] = None,
) -> None:
    """Count how many private training images a head that knows the pool alone gets right.

    The counts are released with Gaussian noise, which costs --spend. Give the report to dpmix train
    with --prior-release, so that the guarantee of the run covers both. The unit of privacy is an
    image, so the report counts in runs with --unit image alone.
    """
    console, report = stdout(), output or Path(f"{path.resolve().stem}-score.json")
    if report.exists():
        raise DpmixError(
            f"'{report}' is there already, and what it released stays counted; give another "
            "--output"
        )
    config = Config.load(
        data=data, pool=str(path), pool_labels=pool_labels and str(pool_labels),
        pool_unmapped=pool_unmapped, backbone=backbone, test_fraction=test_fraction,
        skip_corrupt=skip_corrupt, window=window, head_start="pool", method="none", cache_views=1,
        epsilon=spend, delta=delta, steps=1, unit="image",
    )  # fmt: skip
    with decoding_bar(console) as decoding:
        run = build_run(config, decoding)
    images, names = len(run.examples), run.splits.train.class_names
    sigma = calibrate_sigma(1.0, 1, spend, run.plan.delta)
    refuse_uninformative(images, len(names), sigma, run.plan.delta)
    with (
        counting_bar(console, "reading the public pool", "batches") as public,
        share_bar(console, "embedding images") as embedding,
    ):
        run.start(public)
        run.inputs.embed(run.examples, embedding)
    counts = count_answers(_answers(run), run.examples.labels, len(names))
    found = release_counts(counts, sigma, SecureStream())
    # Written before it is shown: what was released is never forgotten.
    write_text(report, to_json(_report(found, run.plan.delta)))
    _print_score(found, names, report)


def _answers(run: Run) -> torch.Tensor:
    """Whether the head classifies each training image correctly: one image at a time."""
    rng, right = np.random.default_rng(), []  # each image has one view: there is no choice
    with torch.inference_mode():
        for one in torch.arange(len(run.examples)).split(1):
            seen = run.inputs.views.sample(run.examples, one, rng, run.device)
            right.append(run.inputs.trained(seen.views[:, 0]).argmax(dim=1).cpu())
    return torch.cat(right) == run.examples.labels


def _report(found: PoolScore, delta: float) -> dict[str, object]:
    record = ReleaseRecord(
        what="noisy counts of the right and wrong answers of a public pool's head in each class",
        written=datetime.now(UTC).date().isoformat(),
        noise_multiplier=found.sigma,
        epsilon=epsilon_gaussian(found.sigma, delta),
        delta=delta,
        neighbouring_relation=NEIGHBOURS["image"],
    )
    return {"release": record.model_dump(), "counts": found.counts.tolist()}


def _print_score(found: PoolScore, names: tuple[str, ...], report: Path) -> None:
    """Print the accuracy, the classes that the pool does not cover, and advice."""
    console, missed = stdout(), found.uncovered()
    more = f" and {len(missed) - _SHOWN} more" if len(missed) > _SHOWN else ""
    console.print(
        two_columns([
            ("accuracy", f"{_range(found.accuracy)} of the private training images, by a head "
             "that knows the pool alone"),
            ("by guessing", f"{1 / len(names):.1%}"),
            ("not covered", ", ".join(names[label] for label in missed[:_SHOWN]) + more or "none"),
            ("advice", found.advice()),
            ("report", f"{report}; count it: dpmix train --prior-release {report} ..."),
        ])
    )  # fmt: skip
    table = Table("class", "right", box=None, pad_edge=False)
    for label, name in enumerate(names):
        table.add_row(name, _range(found.of_class(label)))
    console.print(table)


def _range(share: Share) -> str:
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
