"""How an epsilon is printed: never smaller than the one that holds."""

import math
from decimal import ROUND_CEILING, Decimal


def shown_epsilon(epsilon: float, digits: int = 3) -> str:
    """`epsilon` with `digits` decimals, rounded up; `inf` as it is."""
    if math.isinf(epsilon):
        return "inf"
    return str(Decimal(repr(epsilon)).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))
