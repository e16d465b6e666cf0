"""What happens to the pictures before anything is trained, in one line."""

from dpmix.config import Config
from dpmix.data.pixels import Reading
from dpmix.data.splits import Splits
from dpmix.views.spec import ViewSpec

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
