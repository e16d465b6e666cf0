"""Epsilon by privacy random variables (PRV): an accountant that shares no code with `accounting`.

Source: Gopi, Lee, Wutschitz 2021, arXiv 2106.02848, whose library `prv-accountant` this calls. It
gives a lower and an upper bound on epsilon. The library is optional: the extra `verify`.
"""

import math

import numpy as np

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import PriorReleases, epsilon_pld

# The bounds lie this far from the estimate, as a part of epsilon, and at least this far.
_ERROR, _LEAST_ERROR = 0.01, 1e-3
_DELTA_ERROR = 1e-3  # as a part of delta
_ROUNDED = 1e-6  # the library has no number for a loss that is the least but for rounding


def epsilon_prv(
    sampling_rate: float, sigma: float, steps: int, delta: float, prior_releases: PriorReleases = ()
) -> tuple[float, float] | None:
    """Lower and upper bound of epsilon at delta; None if `prv-accountant` is missing.

    It computes as the library's `PRVAccountant`, except that it knows where a subsampled loss
    begins, which is nowhere below log(1 - q). The library integrates over everything below -0.1 at
    once, and misses a loss that begins a little below that, as for q = 1/8.
    """
    try:
        from prv_accountant import GaussianMechanism, PoissonSubsampledGaussianMechanism
        from prv_accountant.accountant import (
            PrivacyRandomVariableTruncated,
            compute_safe_domain_size,
        )
        from prv_accountant.composers import ConvolutionTree, Fourier
        from prv_accountant.discretisers import CellCentred
        from prv_accountant.domain import Domain
    except ImportError:
        return None
    epsilon = epsilon_pld(sampling_rate, sigma, steps, delta, prior_releases)
    if epsilon == 0:  # nothing was released
        return 0.0, 0.0
    error, delta_error = max(_LEAST_ERROR, _ERROR * epsilon), _DELTA_ERROR * delta
    subsampled = sampling_rate < 1
    counts = [steps, *(1 for _ in prior_releases)]
    least = math.log1p(-sampling_rate) - _ROUNDED if subsampled else -math.inf
    lowest = [least, *(-math.inf for _ in prior_releases)]
    try:
        mechanisms = [
            PoissonSubsampledGaussianMechanism(sampling_rate, sigma)
            if subsampled
            else GaussianMechanism(sigma),
            *(GaussianMechanism(other) for other in prior_releases),
        ]
        reach = compute_safe_domain_size(mechanisms, counts, error, delta_error)
        # Theorem 5.5.
        mesh = error / math.sqrt(sum(counts) / 2 * math.log(12 / delta_error))
        domain = Domain.create_aligned(-reach, reach, mesh)
        parts = []
        for mechanism, low, count in zip(mechanisms, lowest, counts, strict=True):
            loss = PrivacyRandomVariableTruncated(
                mechanism, max(low, domain.t_min()), domain.t_max()
            )
            part = Fourier([CellCentred().discretise(loss, domain)]).compute_composition([count])
            # The library uses float128 on some machines, which SciPy 1.17 can't convolve.
            part.pmf = part.pmf.astype(np.float64)
            parts.append(part)
        whole = ConvolutionTree(parts).compute_composition([1] * len(parts))
        below, _, above = whole.compute_epsilon(delta, delta_error, error)
    # Raised by the library if its grid is too coarse or too large.
    except (RuntimeError, ValueError, AssertionError, MemoryError) as problem:
        raise DpmixError(
            f"the PRV accountant can't compute epsilon at sigma {sigma:g}, q {sampling_rate:g}, "
            f"{steps} steps and delta {delta:g} ({problem or type(problem).__name__}): the second "
            "opinion on epsilon is missing"
        ) from problem
    return float(below), float(above)
