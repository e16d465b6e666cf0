"""Mixup of views: lambda * a + (1 - lambda) * b, images and soft labels alike.

`mixup` mixes inside one group's pool of views. Groups never meet, which keeps DP-Mix's sensitivity
at C (`tests/properties/test_isolation.py`).

`random_matching` makes the pairs of `microbatch-mixup`, the naive baseline, in which two private
examples share one view set and so one clipped gradient. The drawn examples are matched uniformly at
random, and an odd one is left out. Claim: under add/remove-one, the random draws of neighbouring
data sets can be coupled so that the sums of clipped gradients differ by at most 2C
(`tests/properties/test_sensitivity.py`). Let S be the drawn set without example z, and n = |S|.

* n odd. Without z, one uniformly random a is left out and the rest are matched uniformly. With z,
  all n + 1 are matched: z's partner is uniform, and the rest are matched uniformly. Couple the
  partner with the one left out: the sums differ by the one term of {a, z}, at most C.
* n even. Without z, all are matched. With z, either z is left out (no difference), or a uniformly
  random b is, and z's partner a is uniform among the others. Couple a with b's partner without z:
  the term of {a, b} becomes the term of {a, z}, a difference of at most 2C.

Hockey-stick divergence is jointly convex, so the mixture over the coupled draws is no worse than
its worst pair, and Poisson sampling of z amplifies as usual: a Gaussian mechanism of sensitivity
2C. (Making the odd example a group by itself would cost 3C.)
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor


def mixup(
    pool: Float[Tensor, "G P *shape"],
    first: Int64[Tensor, "G M"],
    second: Int64[Tensor, "G M"],
    weight: Float[Tensor, "G M"],
) -> Float[Tensor, "G M *shape"]:
    """Mix the pool entries `first` and `second` of the same group, with `weight` on the first.

    Zhang et al. 2018 (mixup), applied as in DP-Mix (arXiv 2311.01295, section 4): the same call
    with the same random draws serves images [G, P, C, H, W] and soft labels [G, P, L].
    """
    group = torch.arange(pool.shape[0], device=pool.device)[:, None]
    weight = weight.to(pool.dtype).reshape(*weight.shape, *[1] * (pool.ndim - 2))
    return torch.lerp(pool[group, second], pool[group, first], weight)


def random_matching(drawn: Int64[Tensor, " B"], rng: np.random.Generator) -> Int64[Tensor, " M"]:
    """Return the drawn examples in uniformly random order; one is left out where B is odd.

    Entries 2g and 2g + 1 form group g.
    """
    order = torch.from_numpy(rng.permutation(len(drawn)))
    return drawn[order[: len(drawn) // 2 * 2]]
