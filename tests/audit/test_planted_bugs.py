"""Seven bugs that would break the guarantee, planted in the real code: each is caught."""

import numpy as np
import pytest
import torch

from audit_subject import audit, plan
from dpmix.data import load_splits
from dpmix.data.options import ReadOptions
from dpmix.errors import DpmixError
from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.sampling import PoissonSampler
from dpmix.public.load import load_pool_for
from dpmix.training.step import PrivateTrainer
from dpmix.views import ViewBuilder


def broken(found):
    return {one.name for one in found.invariants if not one.holds}


def test_a_sound_mechanism_is_not_accused():
    sampled = plan(sampling_rate=0.2, steps=40)
    assert not audit(sampled, canaries=100, runs=1, examples=60).violated
    assert not audit(plan(sampling_rate=0.02, steps=60), canaries=40, runs=1, examples=4).violated


def test_half_of_the_noise(monkeypatch):
    whole = GaussianNoise.__init__

    def halved(self, run_plan):
        whole(self, run_plan)
        self.std /= 2

    monkeypatch.setattr(GaussianNoise, "__init__", halved)
    found = audit(plan(noise_multiplier=2.0))
    assert found.lower_bound > found.claimed  # the bound alone refutes it
    assert broken(found) == {"noise in every step"}


def test_no_noise_where_nobody_was_drawn(monkeypatch):
    sound = GaussianNoise.release

    def forgetful(self, clipped_sum, rng):
        if not any(total.any() for total in clipped_sum):
            return [total / self.denominator for total in clipped_sum]
        return sound(self, clipped_sum, rng)

    monkeypatch.setattr(GaussianNoise, "release", forgetful)
    found = audit(plan(sampling_rate=0.02, steps=60), canaries=40, runs=1)
    assert found.violated and "noise in every step" in broken(found)


def test_views_that_are_clipped_one_by_one_and_added_up(monkeypatch):
    sound = PrivateTrainer._clipped_sum

    def by_view(self, examples, coins):
        views = self.views.spec.views
        part = sound(self, examples, coins)
        for _ in range(views - 1):
            torch._foreach_add_(part.gradients, sound(self, examples, coins).gradients)
        return part

    monkeypatch.setattr(PrivateTrainer, "_clipped_sum", by_view)
    found = audit(plan(), canaries=100, runs=1)
    assert broken(found) == {"clipped gradients"}


def test_mixing_with_the_next_example_at_sensitivity_c(monkeypatch):
    sound = ViewBuilder.build

    def across(self, images, labels, coins):
        made = sound(self, images, labels, coins)
        made.views[:, -1] = (made.views[:, -1] + made.views[:, -1].roll(1, dims=0)) / 2
        return made

    monkeypatch.setattr(ViewBuilder, "build", across)
    found = audit(plan(), canaries=100, runs=1)
    assert broken(found) == {"views of one example"}


def test_division_by_the_size_of_the_batch_that_was_drawn(monkeypatch):
    sound, drawn = PoissonSampler.draw, {}

    def noted(self, rng):
        examples = sound(self, rng)
        drawn["size"] = max(1, len(examples))
        return examples

    def realised(self, clipped_sum, rng):
        kept, self.denominator = self.denominator, drawn["size"]
        try:
            return release(self, clipped_sum, rng)
        finally:
            self.denominator = kept

    release = GaussianNoise.release
    monkeypatch.setattr(PoissonSampler, "draw", noted)
    monkeypatch.setattr(GaussianNoise, "release", realised)
    found = audit(plan(sampling_rate=0.5, denominator=30.0, steps=10), canaries=200, runs=1,
                  examples=60)  # fmt: skip
    assert "noise in every step" in broken(found)


def test_shuffled_batches_that_are_accounted_as_poisson_draws(monkeypatch):
    def shuffled(self, rng):
        size = round(self.rate * self.examples)
        order = np.argsort(rng.random(self.examples))[:size]
        return torch.from_numpy(np.sort(order))

    monkeypatch.setattr(PoissonSampler, "draw", shuffled)
    found = audit(plan(sampling_rate=0.2, steps=40), canaries=100, runs=1, examples=60)
    assert broken(found) == {"draws of examples"}


def test_a_pool_that_holds_a_private_image(image_root, public_root, monkeypatch):
    """Refused, and refused by that check: without it the image would be read."""
    splits = load_splits(str(image_root))
    one = next((image_root / "train" / "disc").iterdir())
    (public_root / "disc" / "copied.png").write_bytes(one.read_bytes())

    def load():
        return load_pool_for(
            str(image_root), splits, public_root, labels_csv=None, unmapped="refuse",
            options=ReadOptions(),
        )  # fmt: skip

    with pytest.raises(DpmixError, match="the public pool is not public: 1 of its images"):
        load()
    monkeypatch.setattr("dpmix.public.load.refuse_overlap", lambda *_: None)
    assert any("copied" in name for name in load().names)
