"""Pairs for `microbatch-mixup`, the naive baseline, and why its sensitivity is 2C.

Two private examples share one view set and so one clipped gradient. The drawn examples are matched
uniformly at random and an odd one is left out. Claim: under add/remove-one, the coins of the
neighbouring data sets can be coupled so that the sums of clipped gradients differ by at most 2C.
Let S be the drawn set without example z, and n = |S|.

* n odd. Without z one uniformly random a is left out and the rest matched uniformly. With z all
  n + 1 are matched: z's partner is uniform, the rest matched uniformly. Couple the partner with
  the one left out: the sums differ by the one term of {a, z}, at most C.
* n even. Without z all are matched. With z, either z is left out (no difference), or a uniformly
  random b is, and z's partner a is uniform among the others. Couple a with b's partner without z:
  the term of {a, b} becomes the term of {a, z}, a difference of at most 2C.

Hockey-stick divergence is jointly convex, so the mixture over the coupled coins is no worse than
its worst pair, and Poisson sampling of z amplifies as usual: a Gaussian mechanism of sensitivity
2C. (Keeping the odd example as a group of its own would cost 3C.)
"""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def random_matching(drawn: Int64[Tensor, " B"], rng: np.random.Generator) -> Int64[Tensor, " M"]:
    """Return the drawn examples in uniformly random order, neighbours being pairs; M is even.

    Entries 2g and 2g + 1 form group g. One example is left out where B is odd.
    """
    order = torch.from_numpy(rng.permutation(len(drawn)))
    return drawn[order[: len(drawn) // 2 * 2]]
