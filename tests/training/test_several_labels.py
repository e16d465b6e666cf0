"""Several labels an image: the cache, the trainer and `make_private`."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import dpmix
from dpmix.clipping.types import multi_label_loss
from dpmix.data import TensorSource
from dpmix.errors import DpmixError
from dpmix.models.backbones import load_backbone
from dpmix.pool.pool import PublicPool
from dpmix.training.feature_cache import FeatureCache
from dpmix.views import ViewBuilder, ViewSpec
from small_run import linear, plan, source

CPU, NAMES = torch.device("cpu"), ("cough", "fever", "rash")
NAN = torch.nan


@pytest.mark.parametrize("method", ["none", "mix-self", "mix-diff"])
def test_cached_views_have_the_labels_of_fresh_ones(tmp_path, method):
    backbone = load_backbone("scatternet", CPU, input_size=16)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, 3, 12, 12), dtype=np.uint8))
    labels = torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 1, 1]])
    data = TensorSource(pixels, labels, NAMES)
    spec = ViewSpec(method, k_base=2, k_self=2, k_diff=1)
    pool = PublicPool(pixels, torch.tensor([0, 1, -1])) if method == "mix-diff" else None
    builder = ViewBuilder(spec, 3, backbone.normalization, pool)
    cache = FeatureCache(tmp_path, backbone, spec.views, 0, "float16", None, CPU)
    cached = cache.embed_train(data, builder, lambda done, total: None)
    made = cached.sample(data, torch.arange(3), np.random.default_rng(1), CPU)
    fresh = builder.sample(data, torch.arange(3), np.random.default_rng(2), CPU)
    own = torch.where(labels == -1, NAN, labels.float())
    for views in (made.labels, fresh.labels):
        assert torch.equal(views[:, 0].nan_to_num(-1), own.nan_to_num(-1))
        known = views[~views.isnan()]
        assert ((known >= 0) & (known <= 1)).all()
        if method != "mix-diff":
            assert torch.equal(views.nan_to_num(-1), own.nan_to_num(-1)[:, None].expand_as(views))
    cached.check_data(data)
    other = TensorSource(pixels, labels.flip(0), NAMES)
    with pytest.raises(DpmixError, match="other labels"):
        cached.check_data(other)


def pairs(labels, count=12):
    pixels = source().pixels[:count]
    return TensorDataset(pixels, labels[:count])


def private(labels, outputs=3, **more):
    model = linear(outputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    settings = {"views": ViewSpec("none"), "seed": 3, "task": "multi-label"} | more
    return model, dpmix.make_private(model, optimizer, pairs(labels), plan=plan(n=12), **settings)


def test_a_dataset_that_returns_rows_of_labels():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(-1, 2, (12, 3)))
    floats = torch.where(labels == -1, NAN, labels.float())
    models = [private(rows) for rows in (labels, floats)]
    for _, trainer in models:
        assert trainer.loss is multi_label_loss
        trainer.step()
    (one, _), (two, _) = models
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("labels", "outputs", "more", "message"), [
    (torch.zeros(12, 2).long(), 3, {}, "model has 3 outputs and each image has 2 labels"),
    (torch.full((12, 3), 2), 3, {}, "labels 0 of .*: label '0' is 2, and 2 more; expected 1"),
    (torch.zeros(12).long(), 3, {}, r"labels 0 of the dataset is tensor.0.; expected a row"),
    (torch.zeros(12, 3).long(), 3, {"task": "single-label"}, "several labels, give task='multi-l"),
    (torch.zeros(12, 3).long(), 3, {"views": ViewSpec("mix-diff", k_base=1, pool_draw="same-class"),
     "pool": PublicPool(source().pixels[:3] // 2, torch.arange(3))}, "pool_draw same-class needs"),
])  # fmt: skip
def test_labels_that_do_not_fit_are_refused(labels, outputs, more, message):
    with pytest.raises(DpmixError, match=message):
        private(labels, outputs, **more)
