"""What the command line prints about a pool."""

import math
from collections import Counter
from pathlib import Path

from dpmix.gap.check import GapFinding
from dpmix.privacy.release_record import ReleaseRecord
from dpmix.public.class_map import LEFT_OUT, UNLABELLED
from dpmix.public.inspection import PoolInspection
from dpmix.public.manifest import Manifest
from dpmix.public.pool_files import PoolFiles
from dpmix.reporting.rounding import shown_epsilon
from dpmix.reporting.summary import repeats_row

_SHOWN = 3

Rows = list[tuple[str, str]]


def inspection_rows(files: PoolFiles, found: PoolInspection) -> Rows:
    """Counts, sizes, repeats and corrupt files."""
    counts = found.counts.values()
    repeats = sum(len(group) - 1 for group in found.repeated)
    rows = [
        ("pool", str(files.path)),
        ("images", f"{sum(counts)} in {len(counts)} classes, {_range(min(counts), max(counts))}"),
        ("sizes", _sizes(found.sizes)),
        ("repeated", f"{repeats} images repeat another{_first(found)}" if repeats else "none"),
    ]
    if found.conflicting:
        rows.append(("conflicts", f"{found.conflicting} images are in more than one class"))
    if found.plain:
        rows.append(("OF ONE COLOUR", f"{len(found.plain)} images{_few(found.plain)}"))
    if found.corrupt:
        named = [f"{name} ({why})" for name, why in list(found.corrupt.items())[:_SHOWN]]
        more = ", ..." if len(found.corrupt) > _SHOWN else ""
        rows.append(("CORRUPT", f"{len(found.corrupt)}: {', '.join(named)}{more}"))
    return rows


def _few(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"


def _range(low: int, high: int) -> str:
    return f"{low} each" if low == high else f"{low} to {high} each"


def _first(found: PoolInspection) -> str:
    return f" (first: {found.repeated[0][1]} = {found.repeated[0][0]})"


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    shown = [f"{height}x{width}: {count}" for (height, width), count in sizes.most_common(_SHOWN)]
    more = f", and {len(sizes) - _SHOWN} more sizes" if len(sizes) > _SHOWN else ""
    return ", ".join(shown) + more


def provenance_rows(manifest: Manifest | None, mismatch: str | None) -> Rows:
    """Where a pool comes from, as its manifest says; `mismatch` is how its files differ from it."""
    if manifest is None:
        return [("manifest", "none: nothing is known of where the images come from")]
    model = manifest.model
    dates = ", ".join(session.date for session in manifest.sessions)
    return [
        ("manifest", mismatch or f"matches all {len(manifest.images)} files (sha256); {dates}"),
        ("drawn by", f"{model.identity} ({model.pipeline}, {model.scheduler})"),
        ("licence", model.licence or "not stated"),
        ("template", str(manifest.settings.get("template"))),
        ("statement", manifest.statement),
    ]


def served_rows(found: PoolInspection, names: tuple[str, ...], targets: list[int]) -> Rows:
    """How many images serve each class of a data set; `targets` as `class_map` returns them."""
    images: Counter[int] = Counter()
    for count, target in zip(found.counts.values(), targets, strict=True):
        images[target] += count
    listed = ", ".join(f"{name} {images[label]}" for label, name in enumerate(names))
    rows = [("for your classes", listed)]
    if images[UNLABELLED]:
        rows.append(("unlabelled", f"{images[UNLABELLED]}, with a uniform soft label"))
    if images[LEFT_OUT]:
        rows.append(("left out", str(images[LEFT_OUT])))
    return rows


def gap_rows(
    finding: GapFinding,
    release: ReleaseRecord | None,
    repeats: tuple[int, float] | None,
    output: Path,
) -> Rows:
    """The verdict, the distances and what they cost; `repeats` as in `gap_report`."""
    found, floor, advice = finding.found, finding.floor, finding.advice
    alone = " (noise alone: under {})" if release else ""
    rows = [
        ("advice", f"{advice.verdict}: {advice.reason}"),
        (
            "class distance",
            f"{found.class_ratio:.2f} of the distance between classes"
            + alone.format(f"{floor.class_ratio:.2f}")
            if math.isfinite(found.class_ratio)
            else "not measured",
        ),
        ("classes matched", f"{found.matched:.0%} of {len(found.by_class)} compared"),
        (
            "Frechet distance",
            f"{found.frechet_ratio:.2f} of the pool's variance"
            + (f" (noise alone: {floor.frechet_ratio:.2f})" if release else ""),
        ),
    ]
    if release is None:
        return [*rows, ("privacy", "not counted: both sets were taken as public"),
                ("report", str(output))]  # fmt: skip
    return [
        *rows,
        ("spent", f"epsilon {shown_epsilon(release.epsilon)}, delta {release.delta} "
                  f"({release.neighbouring_relation})"),
        *([repeats_row(*repeats)] if repeats else []),
        ("count it", f"dpmix train --spent {output} ..."),
    ]  # fmt: skip
