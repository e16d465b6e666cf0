"""What was asked of a backbone, beside its name."""

from dataclasses import dataclass
from pathlib import Path

RANDOM = "random weights in place of its own, which were not looked for"
"""Where the weights of a network come from that is only tried."""

OWN_WEIGHTS = "weights of a local file"
"""Where they come from if the user gave a file: its name is not published, its hash is."""


@dataclass(frozen=True)
class BackboneRequest:
    """How to load a backbone.

    Attributes:
        model: the library's own name, after the prefix (`timm:MODEL`); the name itself otherwise.
        weights: a local file, or a folder with one; None: the library's own.
        pretrained: False leaves the weights at random, for sizes and costs alone.
        download: fetch weights that are not there.
        input_size: S in pixels; None: the backbone's own.
    """

    model: str
    weights: Path | None = None
    pretrained: bool = True
    download: bool = False
    input_size: int | None = None
