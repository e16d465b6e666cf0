"""epsilon by privacy random variables (PRV): an accountant that shares no code with `accounting`.

Source: Gopi, Lee, Wutschitz 2021, arXiv 2106.02848, whose library this calls. It gives a lower and
an upper bound of epsilon.
"""

import numpy as np
from prv_accountant import GaussianMechanism, PoissonSubsampledGaussianMechanism, PRVAccountant
from prv_accountant.composers import ConvolutionTree

from dpmix.privacy.accounting import Spent, epsilon_pld

# The bounds lie so far from the estimate, as a part of epsilon, and at least so far.
_ERROR, _LEAST_ERROR = 0.01, 1e-3


def epsilon_prv(
    sampling_rate: float, sigma: float, steps: int, delta: float, spent: Spent = ()
) -> tuple[float, float, float]:
    """Lower bound, estimate and upper bound of epsilon, by privacy random variables."""
    error = max(_LEAST_ERROR, _ERROR * epsilon_pld(sampling_rate, sigma, steps, delta, spent))
    training = (
        PoissonSubsampledGaussianMechanism(sampling_rate, sigma)
        if sampling_rate < 1
        else GaussianMechanism(sigma)
    )
    counts = [steps, *(1 for _ in spent)]
    accountant = PRVAccountant(
        [training, *(GaussianMechanism(other) for other in spent)],
        max_self_compositions=counts,
        eps_error=error,
        delta_error=delta * 1e-3,
    )
    composers = accountant.composer.self_composers
    parts = [some.compute_composition([n]) for some, n in zip(composers, counts, strict=True)]
    for part in parts:
        # SciPy 1.17 convolves no float128, which these come as on some machines.
        part.pmf = part.pmf.astype(np.float64)
    whole = ConvolutionTree(parts).compute_composition([1] * len(parts))
    low, estimate, high = whole.compute_epsilon(delta, accountant.delta_error, error)
    return float(low), float(estimate), float(high)
