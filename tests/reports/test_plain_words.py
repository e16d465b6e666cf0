"""What numbers mean."""

import math

import pytest

from dpmix.reports.audit_report import AuditReport, Finding
from dpmix.reports.page import audit_verdict, best_guess, meaning

AUDIT = {"kind": "gradient", "refuted": False, "claimed": 3.0, "delta": 1e-5, "one_run": 1.0,
         "two_worlds": 1.25, "confidence": 0.95, "canaries": 100, "runs": 1, "plan": {},
         "settings": {}, "written": "2026-01-02", "dpmix": "0.1.0"}  # fmt: skip


def audit(**changes):
    return AuditReport(**AUDIT | changes)


def test_nothing_is_learnt_at_epsilon_and_delta_0_and_all_where_delta_is_1():
    assert best_guess(0.0, 0.0) == 0.5
    assert best_guess(0.0, 1.0) == 1.0
    assert best_guess(math.inf, 0.0) == pytest.approx(1)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (3.0, 1e-2), (8.0, 1e-6)])
def test_no_pair_of_error_rates_that_the_guarantee_allows_is_better(epsilon, delta):
    rates = [index / 2000 for index in range(2001)]
    grown = math.exp(epsilon)
    allowed = [
        1 - (fpr + max(1 - delta - grown * fpr, (1 - delta - fpr) / grown, 0)) / 2 for fpr in rates
    ]
    assert max(allowed) <= best_guess(epsilon, delta) + 1e-12
    assert max(allowed) == pytest.approx(best_guess(epsilon, delta), abs=1e-3)


def test_the_sentence_rounds_up():
    assert "at most 95.3 %" in meaning(3.0, 1e-5)
    assert "at most 73.2 %" in meaning(1.0, 1e-5)  # 73.106...
    assert "at most 99.97 %" in meaning(8.0, 1e-5)  # 99.966...
    assert "at most 100 %" in meaning(math.inf, 1e-5)


def test_verdicts():
    assert "Not refuted: the strongest attack shows an epsilon of at least 1.250 at 95 %" in (
        audit_verdict(audit())
    )
    assert "little power" not in audit_verdict(audit())
    assert "little power" in audit_verdict(audit(two_worlds=None, one_run=0.1))
    assert "epsilon is at least 3.500" in audit_verdict(audit(refuted=True, two_worlds=3.5))
    broken = (Finding(name="noise in every step", holds=False, found="half"),)
    assert "(noise in every step)" in audit_verdict(audit(refuted=True, invariants=broken))
