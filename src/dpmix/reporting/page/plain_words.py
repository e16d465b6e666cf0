"""What numbers of a guarantee or an audit mean, in plain sentences."""

import math

from dpmix.reporting.audit_model import AuditReport
from dpmix.reporting.rounding import shown_epsilon
from dpmix.reporting.statement_model import Statement


def best_guess(epsilon: float, delta: float) -> float:
    """How often, at most, somebody guesses rightly whether an example was in, at even odds.

    Under (epsilon, delta)-DP a test's two error rates obey fpr + e^epsilon fnr >= 1 - delta and the
    same with the two exchanged (Kairouz, Oh, Viswanath 2015), so their mean is at least
    (1 - delta) / (1 + e^epsilon).
    """
    return 1 - (1 - delta) / (1 + math.exp(min(epsilon, 700.0)))


def meaning(epsilon: float, delta: float) -> str:
    """The guarantee in one sentence."""
    share = best_guess(epsilon, delta)
    # Rounded up, but not to certainty as long as it is none.
    rounded = (math.ceil(share * 10 ** (2 + digits)) / 10**digits for digits in (1, 2, 3, 4))
    percent = next((value for value in rounded if value < 100), 100)
    return (
        "Somebody who knows this model and every other training image, and guesses at even odds "
        f"whether one given image was among them, is right at most {percent:g} % of the time; a "
        "coin is right 50 % of the time."
    )


def claimed_epsilon(statement: Statement) -> str:
    """Epsilon as it is claimed: of all planned steps, and of fewer only with what that rests on."""
    whole, at_stop = shown_epsilon(float(statement.epsilon)), statement.epsilon_at_fixed_stop
    if at_stop is None:
        return whole
    return f"{whole} ({shown_epsilon(at_stop)} only if its stop was fixed beforehand)"


def audit_verdict(audit: AuditReport) -> str:
    """What an audit came to, in two sentences."""
    at = f"at {100 * audit.confidence:g} % confidence"
    bound, claim = f"{audit.lower_bound:.3f}", shown_epsilon(audit.claimed)
    if audit.broken:
        return (
            f"REFUTED: the training did not do what its plan says ({', '.join(audit.broken)}). "
            "Do not rely on the guarantee."
        )
    if audit.refuted:
        return (
            f"REFUTED: the attack shows that epsilon is at least {bound} {at}, more than the "
            f"{claim} that is claimed. Do not rely on the guarantee."
        )
    power = (
        " The attack had little power: more canaries or runs would say more." if audit.weak else ""
    )
    return (
        f"Not refuted: the strongest attack shows an epsilon of at least {bound} {at}, and "
        f"{claim} is claimed. That proves nothing, but it looked for bugs and found none.{power}"
    )
