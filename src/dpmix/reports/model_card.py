"""`MODEL_CARD.md`: what a person needs to know who is handed the model."""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpmix.data.image import Reading
from dpmix.data.named import public_name
from dpmix.data.splits import Splits
from dpmix.reports.statement import Statement, shown_epsilon, shown_sigma
from dpmix.runs.config import Config
from dpmix.training.evaluate import has_diverged
from dpmix.views.spec import ViewSpec

# What happens to the pictures before anything is trained, in one line.


_FIT: dict[Reading, str] = {
    1: "cut to the centre where the proportions differ",
    2: "padded with their own border where a cut would lose more than a tenth",
}


def pictures_in_words(config: Config, splits: Splits, spec: ViewSpec) -> str:
    """Their size, how they are fitted into it, colours, mirroring, and which are held out.

    Args:
        config: settings, with the `input` section of the run.
        splits: what was read.
        spec: the views.
    """
    assert config.input is not None
    data, (channels, height, width) = config.data, splits.train.image_shape
    colours = "grey" if channels == 1 else "RGB"
    said = [
        f"{height}x{width} as stored"
        if data.image_size is None
        else f"resized to {height}x{width} ({_FIT[config.input.reading]})",
        f"{colours} as stored" if data.channels is None else f"converted to {colours}",
        "mirrored at random (--no-flip turns that off)"
        if spec.flip and spec.method != "none"
        else "not mirrored",
    ]
    return f"{', '.join(said)}; {splits.judged_on} images: {splits.held_out}"


# Which views of an example were averaged, in a few words.


def views_in_words(spec: ViewSpec) -> str:
    """Such as "16 self-augmentations, 18 mixtures"."""
    if spec.method == "none":
        return "the image as it is"
    said = f"{spec.k_base} self-augmentations"
    if spec.extra_augment != "none":
        said += f", each after {spec.extra_augment}"
    if spec.public_views:
        said += f", {spec.public_views} public images"
    if spec.mixed_views:
        said += f", {spec.mixed_views} mixtures"
    return said if spec.average == "all" else f"{said}; of these the mixtures alone"


def model_card(config: Config, statement: Statement, numbers: dict[str, Any]) -> str:
    """Render the card from the privacy statement and the metrics; nothing else is read."""
    environment = Environment(
        loader=PackageLoader("dpmix.reports"),
        undefined=StrictUndefined,
        # Markdown, not HTML: escaping would garble class names.
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "epsilon": shown_epsilon, "sigma": shown_sigma, "cell": _cell, "diverged": has_diverged,
    }  # fmt: skip
    template = environment.get_template("model_card.md.j2")
    return template.render(
        config=config,
        statement=statement,
        numbers=numbers,
        data_name=public_name(config.data.data),
        views=views_in_words(config.view_spec(flip=False)),
    )


def _cell(text: str) -> str:
    """Text that stays inside one cell of a Markdown table, and is no markup: no link, no HTML."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return re.sub(r"([\\`\[\]<>|])", r"\\\1", line)
