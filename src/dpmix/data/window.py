"""An intensity window: grey values of any depth to 8 bits.

One pixel of the result depends on that pixel and the window alone. The window is a constant of the
run, or is read from the image's own tags: an image is never mapped by what another one holds. That
makes it part of reading an example, and the sensitivity of a step is as without it
(`tests/data/test_window.py`). A constant that was chosen by looking at the private images would be
a query of them, which no guarantee here covers: it is public by assumption.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, UInt8
from scipy.special import expit

from dpmix.errors import DpmixError

OWN: Literal["dicom"] = "dicom"
"""Each DICOM file's own window, for `--window`."""
_LEAST_WIDTH = {"LINEAR": 1.0, "LINEAR_EXACT": 1e-6, "SIGMOID": 1e-6}
MOST = 1e12
"""Numbers beyond it are damage, and would overflow."""
_NUMBER = r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*"


@dataclass(frozen=True)
class Window:
    """The grey values of which the middle one is `center`, as wide as `width`.

    Values below are black and those above are white.

    Raises:
        DpmixError: a width or a function that DICOM does not allow.
    """

    center: float
    width: float
    function: str = "LINEAR"  # or LINEAR_EXACT or SIGMOID

    def __post_init__(self) -> None:
        least = _LEAST_WIDTH.get(self.function, math.inf)
        if not (least <= self.width <= MOST and abs(self.center) <= MOST):  # no NaN is
            raise DpmixError(
                f"window is {self.center:g},{self.width:g}; expected a center and a width of 1 or "
                "more, such as 40,400"
            )

    def apply(self, values: Float64[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
        """Return 0 (black) to 255 of finite `values`, rounded; 255.5 of 510 becomes 128.

        Source: DICOM PS3.3, C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID and LINEAR_EXACT), with
        an output from 0 to 255.
        """
        share: Float64[np.ndarray, "..."]
        if self.function == "SIGMOID":
            share = expit((values - self.center) * (4 / self.width))
        else:
            # LINEAR spans width values, and width - 1 steps between them. Of width 1 it is a step:
            # a span next to 0 makes it one without a division by 0.
            span = max(self.width - 1, 1e-9) if self.function == "LINEAR" else self.width
            share = values - (self.center - self.width / 2)
            share /= span  # in place, as below: at 8 bytes a pixel each copy counts
            np.clip(share, 0, 1, out=share)
        share *= 255
        share += 0.5
        return share.astype(np.uint8)


def parse_window(text: str | None) -> Window | Literal["dicom"] | None:
    """Return the window that `--window` names: `dicom`, or `CENTER,WIDTH`; None without.

    Raises:
        DpmixError: anything else.
    """
    if text is None or text == OWN:
        return None if text is None else OWN
    found = re.fullmatch(f"{_NUMBER},{_NUMBER}", text)
    if found is None:
        raise DpmixError(
            f"window is '{text}'; expected CENTER,WIDTH in the images' own values, such as 40,400, "
            f"or {OWN}"
        )
    return Window(float(found[1]), float(found[2]))


def in_eight_bits(image: str, white: int = 65535) -> str:
    """Return Python, for messages, that turns the deep `image` into 8 bits by a fixed window."""
    return f"np.interp({image}, (0, {white}), (0, 255)).astype(np.uint8)"
