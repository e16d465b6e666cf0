"""How a guarantee is printed: never better than the one that holds."""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

# Digits of any float.
_ALL = Context(prec=330)


def shown_epsilon(epsilon: float, digits: int = 3) -> str:
    """`epsilon` with `digits` decimals, rounded up; `inf` as it is."""
    if math.isinf(epsilon):
        return "inf"
    return str(
        Decimal(repr(float(epsilon))).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING, _ALL)
    )


def shown_sigma(sigma: float, digits: int = 4) -> str:
    """`sigma` with `digits` decimals, rounded down: no noise is claimed that is not there."""
    return str(Decimal(repr(float(sigma))).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR, _ALL))
