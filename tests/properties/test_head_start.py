"""A start is public: it is the same whatever the private images are, and C bounds what follows."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.clipping.types import soft_cross_entropy
from dpmix.models.head import LinearHead
from dpmix.models.prior import start_from_pool
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from pictures import write_class_folders


def test_the_start_is_the_same_for_other_private_images(public_root, tmp_path):
    starts = []
    for seed, count in ((1, 12), (2, 20)):
        data = tmp_path / f"data-{seed}"
        for side in ("train", "test"):
            write_class_folders(data / side, count, np.random.default_rng([seed, len(side)]))
        run = build_run(Config.load(
            data=str(data), backbone="scatternet", backbone_size=16, pool=str(public_root),
            cache_dir=str(tmp_path / "cache"), steps=1,
        ))  # fmt: skip
        run.start(lambda done, total: None)
        starts.append(run.model.state_dict())
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert starts[0]["head.linear.weight"].abs().max() > 0


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 3),
    st.sampled_from(["linear", "examplewise", "vectorized"]), st.floats(1e-2, 1e2),
)  # fmt: skip
def test_removing_an_example_moves_the_sum_by_at_most_c(seed, examples, views, engine, scale):
    generator = torch.Generator().manual_seed(seed)
    head = LinearHead(6, 3, "unit", 10.0)
    pool = torch.randn(12, 6, generator=generator), torch.arange(12) % 3
    start_from_pool(head, *pool)
    with torch.no_grad():
        head.linear.weight.mul_(scale)  # a start may be as confident as it likes
    x = torch.randn(examples, views, 6, generator=generator)
    y = torch.softmax(torch.randn(examples, views, 3, generator=generator), dim=-1)

    def total(rows):
        return clipped_gradient_sum(
            head, soft_cross_entropy, x[rows], y[rows], max_grad_norm=0.5, engine=engine
        ).gradients

    whole, rest = total(slice(None)), total(slice(1, None))
    moved = sum(float((a - b).square().sum()) for a, b in zip(whole, rest, strict=True)) ** 0.5
    assert moved <= 0.5 * (1 + 1e-6)
