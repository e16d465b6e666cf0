"""Mixup inside one pool of views: lambda * a + (1 - lambda) * b, images and soft labels alike.

Rows never meet: group g's mixtures read group g's pool only. That keeps DP-Mix's sensitivity at C
(`tests/properties/test_isolation.py`).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def mixup(
    pool: Float[Tensor, "G P *shape"],
    first: Int64[Tensor, "G M"],
    second: Int64[Tensor, "G M"],
    weight: Float[Tensor, "G M"],
) -> Float[Tensor, "G M *shape"]:
    """Mix the pool's entries `first` and `second` of the same group with `weight` on the first.

    Zhang et al. 2018 (mixup) applied as in DP-Mix (arXiv 2311.01295, section 4): the same call
    with the same coins serves images [G, P, C, H, W] and soft labels [G, P, L].
    """
    group = torch.arange(pool.shape[0], device=pool.device)[:, None]
    weight = weight.to(pool.dtype).reshape(*weight.shape, *[1] * (pool.ndim - 2))
    return torch.lerp(pool[group, second], pool[group, first], weight)
