"""The check that a written model answers as the run does, on images that are always there."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from dpmix.data import load_splits
from dpmix.data.pixels import in_form
from dpmix.errors import DpmixError

IMAGES = 64
TOLERANCE = 1e-4

Answer = Callable[[UInt8[Tensor, "B C H W"]], Float[Tensor, "B L"]]


def public_images(shape: tuple[int, int, int]) -> UInt8[Tensor, "B C H W"]:
    """Some of the built-in digits, in a model's form."""
    digits = load_splits("mnist5k").test.images(torch.arange(IMAGES))
    fitted = [in_form(Image.fromarray(digit[0]), shape) for digit in digits.numpy()]
    return torch.from_numpy(np.stack(fitted))


def largest_difference(model: nn.Module, answer: Answer, images: UInt8[Tensor, "B C H W"]) -> float:
    """How far logits are apart, at most, over all images together and one alone.

    Raises:
        DpmixError: more than `TOLERANCE` of the largest logit, or of one.
    """
    worst = 0.0
    for part in (images, images[:1]):
        with torch.inference_mode():
            expected, given = model(part), answer(part)
        if not expected.isfinite().all():
            raise DpmixError(
                "the run's own answers are not finite: its training diverged; train again with a "
                "lower --learning-rate, and export that"
            )
        difference = float((given - expected).abs().max())
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:
            raise DpmixError(
                f"the exported model's logits differ by {difference:.2g} from the run's on "
                f"{len(part)} digit(s); expected {allowed:.2g} at most: nothing was written; try "
                "another --format"
            )
        worst = max(worst, difference)
    return worst
