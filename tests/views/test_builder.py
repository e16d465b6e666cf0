"""`ViewBuilder`: every method against a slow builder of one view at a time."""

import numpy as np
import pytest
import torch

from dpmix.data.normalization import normalization
from dpmix.errors import DpmixError
from dpmix.pool.class_map import UNLABELLED
from dpmix.pool.pool import PublicPool
from dpmix.views import METHODS, ViewBuilder, ViewSpec
from dpmix.views.extra_augment import extra_augment

L = 4
SHAPES = [(3, 6, 9)]
COUNTS = {"k_base": 3, "k_self": 5, "k_diff": 2, "crop_padding": 2}
CASES = [(method, {}) for method in METHODS] + [
    ("mix-self", {"average": "mixed-only"}),
    ("microbatch-mixup", {"average": "mixed-only"}),
    ("mix-diff", {"average": "mixed-only"}),
    ("mix-diff", {"pool_draw": "same-class"}),
    ("mix-diff", {"pool_draw": "other-class"}),
    ("mix-diff", {"pool_role": "extra"}),
    ("mix-diff", {"pool_role": "extra", "k_self": 0}),
    ("mix-diff", {"pool_role": "extra", "pool_draw": "other-class", "k_diff": 5}),
]


def images(shape, count, seed):
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, *shape), dtype=np.uint8))
    return pixels, torch.from_numpy(rng.integers(0, L, count))


def builder(shape, method, **settings):
    spec = ViewSpec(method, **(COUNTS | settings))
    pool = None
    if method == "mix-diff":
        # Every class twice or more, in no order; and one without a class where that may be.
        last = UNLABELLED if spec.pool_draw == "uniform" else 0
        pool = PublicPool(images(shape, 9, 77)[0], torch.tensor([3, 0, 1, 2, 0, 3, 1, 2, last]))
    return ViewBuilder(spec, L, normalization("half", shape[0]), pool)


def augmented(image, draws, group, view, padding):
    """One view by numpy: pad, mirror, crop, normalise."""
    _, height, width = image.shape
    border = (padding, padding)
    padded = np.pad(image.numpy(), ((0, 0), border, border), mode="reflect")
    if draws.flip[group, view]:
        padded = padded[:, :, ::-1]
    top, left = int(draws.top[group, view]), int(draws.left[group, view])
    return (padded[:, top : top + height, left : left + width] / 255 - 0.5) / 0.5


def drawable(build, own):
    """Positions in the pool, in class order, from which an example of class `own` draws."""
    labels = build.pool.labels.tolist()
    in_order = sorted(range(len(labels)), key=lambda i: labels[i])
    return {
        "uniform": list(range(len(labels))),
        "same-class": [i for i in in_order if labels[i] == own],
        "other-class": [i for i in in_order if labels[i] != own],
    }[build.spec.pool_draw]


def slow(build, pixels, labels, draws):
    """The views and soft labels of every group, one view at a time, in float64."""
    spec, views, soft = build.spec, [], []
    padding = 0 if spec.method == "none" else spec.crop_padding
    for group in range(len(draws.top)):
        pool = []
        for view in range(spec.base_views):
            source = 2 * group + view % 2 if spec.method == "microbatch-mixup" else group
            base = augmented(pixels[source], draws, group, view, padding)
            pool.append((base, np.eye(L)[labels[source]]))
        for d in range(spec.public_views):
            drawn = drawable(build, int(labels[group]))
            drawn = drawn[int(draws.public[group, d]) % len(drawn)]
            public, label = build.pool.images[drawn], int(build.pool.labels[drawn])
            view = augmented(public, draws, group, spec.base_views + d, padding)
            pool.append((view, np.full(L, 1 / L) if label == UNLABELLED else np.eye(L)[label]))
        mixed = []
        for m in range(spec.mixed_views):
            lam = float(draws.weight[group, m])
            a, b = pool[draws.first[group, m]], pool[draws.second[group, m]]
            mixed.append(tuple(lam * x + (1 - lam) * y for x, y in zip(a, b, strict=True)))
        chosen = mixed if spec.average == "mixed-only" else pool + mixed
        views.append(np.stack([view for view, _ in chosen]))
        soft.append(np.stack([label for _, label in chosen]))
    return np.stack(views), np.stack(soft)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("method", "settings"), CASES)
def test_views_and_soft_labels_equal_the_slow_builder(shape, method, settings):
    build = builder(shape, method, **settings)
    pixels, labels = images(shape, 6, 1)
    groups = 6 // build.spec.examples_per_group
    draws = build.draw_views(groups, np.random.default_rng(2))
    got = build.build(pixels, labels, draws)
    assert got.views.shape == (groups, build.spec.views, *shape)
    assert got.labels.shape == (groups, build.spec.views, L)
    assert got.views.dtype == got.labels.dtype == torch.float32
    views, soft = slow(build, pixels, labels, draws)
    np.testing.assert_allclose(got.views.numpy(), views, rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.labels.numpy(), soft, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_settings_that_a_method_reads_and_no_others_change_its_views(method):
    """Of those that may be changed: average and extra_augment are refused where they are unread."""

    def drawn(**settings):
        build = builder((3, 6, 9), method, **settings)
        groups = 8 // build.spec.examples_per_group
        draws = build.draw_views(groups, np.random.default_rng(2))
        return build.build(*images((3, 6, 9), 8, 1), draws).views

    others = {
        "k_base": 4, "crop_padding": 1, "flip": False, "k_self": 6, "mixup_alpha": 1.0, "k_diff": 3,
        "pool_draw": "same-class", "pool_role": "extra",
    }  # fmt: skip
    unchanged = {
        name for name, other in others.items() if torch.equal(drawn(), drawn(**{name: other}))
    }
    assert unchanged == ViewSpec(method).unread - {"average", "extra_augment"}


@pytest.mark.parametrize("kind", ["affine", "cutout", "all"])
def test_an_extra_augmentation_follows_crop_and_flip_of_private_and_public_views(kind):
    build = builder((3, 6, 7), "mix-diff", extra_augment=kind)
    given = images((3, 6, 7), 4, 1)
    draws = build.draw_views(4, np.random.default_rng(2))
    plain = builder((3, 6, 7), "mix-diff").build(*given, draws).views[:, :5]
    pixels = (255 * (0.5 * plain + 0.5)).round().to(torch.uint8)
    expected = build.normalization(extra_augment(pixels, draws.extra, kind))
    got = build.build(*given, draws).views
    assert torch.equal(got[:, :5], expected)
    a, b, weight = (part[0, 0] for part in (draws.first, draws.second, draws.weight))
    mixed = weight * expected[0, a] + (1 - weight) * expected[0, b]
    torch.testing.assert_close(got[0, 5], mixed)


@pytest.mark.parametrize(
    ("labels", "how", "said"),
    [
        ([0, 1, 2, 4], "uniform", r"label 4; expected classes 0\.\.3"),
        ([0, 1, 3], "same-class", "same-class needs .* one to draw for each class"),
        ([1, 1, 1], "other-class", "other-class needs .* one to draw for each class"),
        ([0, 1, 2, 3, UNLABELLED], "same-class", "needs a class of every public image"),
    ],
)
def test_a_pool_that_the_draw_cannot_use_is_refused(labels, how, said):
    pixels, _ = images((1, 4, 4), len(labels), 0)
    spec = ViewSpec("mix-diff", pool_draw=how)
    with pytest.raises(DpmixError, match=said):
        ViewBuilder(spec, L, normalization("half", 1), PublicPool(pixels, torch.tensor(labels)))


def test_no_examples_give_no_views():
    build = builder((1, 6, 6), "mix-diff")
    pixels, labels = images((1, 6, 6), 0, 0)
    got = build.build(pixels, labels, build.draw_views(0, np.random.default_rng(0)))
    assert got.views.shape == (0, build.spec.views, 1, 6, 6)
    assert got.labels.shape == (0, build.spec.views, L)


def test_mix_diff_alone_reads_a_pool():
    with pytest.raises(DpmixError, match="mix-diff needs public images; give --pool"):
        ViewBuilder(ViewSpec("mix-diff"), L, normalization("half", 1))
    pool = PublicPool(*images((1, 6, 6), 3, 0))
    for method in set(METHODS) - {"mix-diff"}:
        with pytest.raises(DpmixError, match=f"method {method} reads no public pool"):
            ViewBuilder(ViewSpec(method), L, normalization("half", 1), pool)


def test_padding_wider_than_the_images_is_refused_but_for_none():
    pixels, labels = images((1, 3, 9), 2, 0)
    build = builder((1, 3, 9), "mix-self", crop_padding=3)
    with pytest.raises(DpmixError, match="crop_padding is 3 but the images are 3x9"):
        build.build(pixels, labels, build.draw_views(2, np.random.default_rng(0)))
    plain = builder((1, 3, 9), "none", crop_padding=3)
    got = plain.build(pixels, labels, plain.draw_views(2, np.random.default_rng(0)))
    assert torch.equal(got.views[:, 0], plain.normalization(pixels))
