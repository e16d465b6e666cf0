"""The gap check from images to advice, where the right answer is known."""

import numpy as np
import pytest
import torch

from dpmix.data.source import TensorSource
from dpmix.errors import DpmixError
from dpmix.models.backbones import load_backbone
from dpmix.pool.class_map import UNLABELLED
from dpmix.pool.pool import PublicPool
from dpmix.pool.score import check_gap, compare_features

CPU = torch.device("cpu")
NAMES = ("disc", "stripes", "ring", "bars")


def shapes(count, seed):
    """RGB images [N, 3, 16, 16] of four noisy shapes, and their labels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    radius = np.hypot(y - 7.5, x - 7.5)
    masks = np.stack([radius < 5, x // 2 % 2 == 0, abs(radius - 6) < 1.5, y // 3 % 2 == 0])
    labels = np.arange(count) % len(NAMES)
    grey = masks[labels] * 150 + 50 + rng.normal(0, 20, (count, 16, 16))
    tint = 1 + rng.normal(0, 0.1, (count, 3, 1, 1))
    pixels = np.clip(grey[:, None] * tint, 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def noise(count, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
    return torch.from_numpy(pixels), torch.arange(count) % len(NAMES)


def pools():
    images, labels = shapes(400, 1)
    return {
        "twin": (images, labels),
        "swapped labels": (images, (labels + 1) % 4),
        "inverted": (255 - images, labels),
        "noise": noise(400, 2),
    }


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("random-conv", CPU)


@pytest.fixture(scope="module")
def private():
    return TensorSource(*shapes(2000, 0), NAMES)


def check(name, private, backbone, sigma, seed=0):
    pool = PublicPool(*pools()[name])
    rng = np.random.default_rng(seed)
    return check_gap(pool, private, backbone, sigma=sigma, device=CPU, rng=rng)


@pytest.mark.parametrize(
    ("name", "sigma", "verdict"),
    [
        ("twin", 0.0, "use"),
        ("twin", 4.0, "use"),
        ("swapped labels", 0.0, "leave out"),
        ("swapped labels", 4.0, "leave out"),
        ("inverted", 0.0, "use with care"),
        ("inverted", 4.0, "use with care"),
        ("noise", 0.0, "leave out"),
    ],
)
def test_the_advice_is_right_where_the_gap_is_known(private, backbone, name, sigma, verdict):
    finding = check(name, private, backbone, sigma)
    assert finding.advice.verdict == verdict, finding


@pytest.mark.parametrize("seed", range(5))
def test_too_much_noise_is_never_taken_for_a_good_pool(private, backbone, seed):
    features = backbone.features(private.pixels), private.labels
    rng = np.random.default_rng(seed)
    for name, verdicts in (("swapped labels", {"use with care", "leave out"}),
                           ("twin", {"use with care"})):  # fmt: skip
        images, labels = pools()[name]
        pool = backbone.features(images), labels
        assert compare_features(pool, features, 4, 400.0, rng).advice.verdict in verdicts


def test_a_budget_that_can_tell_nothing_is_refused_before_a_private_image_is_read(
    private, backbone, monkeypatch
):
    monkeypatch.setattr(type(private), "images", lambda self, index: 1 / 0)
    said = r"too few images for noise of 400, which would drown .* nothing was spent"
    with pytest.raises(DpmixError, match=said) as error:
        check("twin", private, backbone, 400.0)
    enough = float(str(error.value).split("noise is about ")[1].split()[0])
    assert 4 < enough < 400
    monkeypatch.undo()
    assert check("twin", private, backbone, enough).advice.verdict in ("use", "use with care")


def test_nothing_is_spent_on_a_pool_whose_own_classes_do_not_differ(private, backbone, monkeypatch):
    monkeypatch.setattr(type(private), "images", lambda self, index: 1 / 0)
    with pytest.raises(DpmixError, match=r"own classes can't be told from each other .*backbone"):
        check("noise", private, backbone, 4.0)


def test_a_private_image_is_embedded_alone(private, backbone, monkeypatch):
    shapes_seen = []
    real = type(backbone).features

    def watched(self, images):
        shapes_seen.append(len(images))
        return real(self, images)

    monkeypatch.setattr(type(backbone), "features", watched)
    check("twin", private, backbone, 4.0)
    assert shapes_seen[-len(private) :] == [1] * len(private)
    assert sum(shapes_seen) == 400 + len(private)


def test_without_noise_nothing_is_random(private, backbone):
    assert check("twin", private, backbone, 0.0, 1) == check("twin", private, backbone, 0.0, 2)


def test_a_release_differs_from_the_next_one_and_follows_its_generator(private, backbone):
    one, two, again = (check("twin", private, backbone, 4.0, seed) for seed in (1, 2, 1))
    assert one == again and one != two


def test_the_noise_is_fresh_unless_a_generator_is_given(private, backbone):
    pool = PublicPool(*pools()["twin"])
    one, two = (check_gap(pool, private, backbone, sigma=4.0, device=CPU).found for _ in range(2))
    assert one.frechet_ratio != two.frechet_ratio


def test_unlabelled_images_of_the_pool_do_not_count(private, backbone):
    images, labels = pools()["twin"]
    more = torch.cat([labels, torch.full((400,), UNLABELLED)])
    mixed = PublicPool(torch.cat([images, noise(400, 3)[0]]), more)
    got = check_gap(mixed, private, backbone, sigma=0.0, device=CPU)
    assert got == check("twin", private, backbone, 0.0)


def test_a_pool_too_small_to_compare_is_refused(private, backbone):
    pool = PublicPool(*shapes(19, 0))
    with pytest.raises(DpmixError, match="has 19 labelled images; a gap check needs 20"):
        check_gap(pool, private, backbone, sigma=1.0, device=CPU)


def test_progress_counts_both_sets(private, backbone):
    seen = []
    pool = PublicPool(*pools()["twin"])
    check_gap(
        pool, private, backbone, sigma=1.0, device=CPU, report=lambda *step: seen.append(step)
    )  # fmt: skip
    assert seen[-1] == (2400, 2400)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
