"""Bugs that would break the guarantee, planted in the real code: each is caught, by its own test.

Patches replace what a step calls, so that all else of the run is real.
"""

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import count

import numpy as np
import pytest
import torch

import dpmix.audit.audit as audits
import dpmix.clipping.accumulator as accumulators
import dpmix.clipping.engine as engine
import dpmix.privacy.noise as noise
import dpmix.privacy.plan as plans
import dpmix.training.trainer as steps
from audit_subject import audit, plan
from dpmix.clipping.accumulator import ClippedAccumulator
from dpmix.data import load_splits
from dpmix.data.image import ReadOptions
from dpmix.errors import DpmixError
from dpmix.pool.load import load_pool_for
from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.sampling import PoissonSampler
from dpmix.training.distributed import Ranks
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewBuilder

SAMPLED = plan(sampling_rate=0.2, steps=40, noise_multiplier=1.5)

# Many bugs share a plan, whose epsilon takes longer than its steps.
EPSILON_PRV = cache(audits.epsilon_prv)


@pytest.fixture(autouse=True)
def computed_once(monkeypatch):
    monkeypatch.setattr(audits, "epsilon_prv", EPSILON_PRV)


@pytest.fixture
def plant(monkeypatch):
    """plant(where, name, bug): replace a function by what `bug` makes of the sound one."""
    return lambda where, name, bug: monkeypatch.setattr(where, name, bug(getattr(where, name)))


def broken(found):
    return {one.name for one in found.invariants if not one.holds}


def failed(run_plan=SAMPLED, *, canaries=100, examples=8, **settings):
    """Names of what does not hold in a short run."""
    return broken(audit(run_plan, canaries=canaries, runs=1, examples=examples, **settings))


@pytest.mark.parametrize(("changes", "settings"), [
    ({"steps": 25, "sampling_rate": 0.02}, {"canaries": 40, "examples": 4}),
    ({"steps": 12, "sampling_rate": 0.2}, {"method": "self-aug", "momentum": 0.9}),
    ({"steps": 2, "sampling_rate": 1.0}, {"examples": 1}),
    ({"steps": 1, "sampling_rate": 0.5}, {"method": "none"}),
], ids=str)  # fmt: skip
def test_a_sound_mechanism_is_not_accused(changes, settings):
    assert not failed(plan(**changes), **settings)


def test_half_of_the_noise(plant):
    def halved(sound):
        def init(self, run_plan):
            sound(self, run_plan)
            self.std /= 2

        return init

    plant(GaussianNoise, "__init__", halved)
    found = audit(plan(noise_multiplier=2.0))
    assert found.lower_bound > found.claimed  # the bound alone refutes it
    assert broken(found) == {"noise in every step"}


def test_no_noise_where_nobody_was_drawn(plant):
    def forgetful(sound):
        return lambda self, clipped_sum, rng: (
            sound(self, clipped_sum, rng)
            if any(total.any() for total in clipped_sum)
            else [total / self.denominator for total in clipped_sum]
        )

    plant(GaussianNoise, "release", forgetful)
    sparse = plan(sampling_rate=0.02, steps=60)
    assert "noise in every step" in failed(sparse, canaries=40, examples=4)


def shared_by(whole):
    """Of a function of half of the numbers: it makes all of them."""
    return lambda sound: lambda count, std, rng: whole(sound(-(-count // 2), std, rng))[:count]


def like_a_table(sound):
    table = sound(1000, 2.0**30, np.random.default_rng(0))
    table /= table.square().mean().sqrt()
    return lambda count, std, rng: (table[rng.integers(0, 1000, count)] * std).round()


def every_second_step(sound):
    calls = Counter()

    def repeated(count, std, rng):
        calls[count] += 1
        return sound(count, std, np.random.default_rng(calls[count] // 2))

    return repeated


def minus_the_last_step(sound):
    """Its sum over all steps is next to nothing."""
    last = {}

    def negative(count, std, rng):
        fresh = sound(count, std / 2**0.5, rng)
        found = fresh - last.get(count, -sound(count, std / 2**0.5, rng))
        last[count] = fresh
        return found

    return negative


def averaged(sound):
    def neighbours(count, std, rng):
        fresh = sound(count, std, rng)
        return ((fresh + fresh.roll(1)) / 2**0.5).round()

    return neighbours


PERMUTED = torch.from_numpy(np.random.default_rng(0).permutation(20_736))


@pytest.mark.parametrize("bug", [
    lambda sound: lambda count, std, rng: sound(count, std, np.random.default_rng(count)),
    every_second_step,
    minus_the_last_step,
    shared_by(lambda half: torch.cat([half, half])),
    shared_by(lambda half: torch.cat([half, -half])),
    shared_by(lambda half: torch.stack([half, half], dim=1).flatten()),
    shared_by(lambda half: torch.cat([half, -half[PERMUTED[: len(half)].argsort()]])),
    averaged,
    like_a_table,
    lambda sound: lambda count, std, rng: (sound(count, std, rng) / 2**20).round() * 2**20,
    lambda sound: lambda count, std, rng: (
        torch.from_numpy(rng.random(count)).sub_(0.5) * std * 12**0.5
    ).round(),
], ids=["the same in every step", "every second step", "minus the last step", "halves",
        "antithetic", "neighbours", "permuted", "averaged", "a table", "coarse", "uniform"],
)  # fmt: skip
def test_noise_of_the_planned_size_that_is_not_independent(plant, bug):
    plant(noise, "_whole_noise", bug)
    assert failed(plan(steps=10)) == {"independent noise"}


def test_noise_that_is_half_a_percent_too_small_in_all_steps(plant):
    plant(noise, "_whole_noise", lambda sound: lambda n, std, rng: sound(n, 0.995 * std, rng))
    assert failed(plan(steps=30)) == {"noise in every step"}


def test_no_noise_on_the_bias(plant):
    plant(noise, "_whole_noise", lambda sound: lambda n, std, rng: sound(n, std, rng) * (n != 8))
    assert "noise in every step" in failed(plan(steps=2))


def test_half_of_the_sum_again_in_the_release(plant):
    plant(GaussianNoise, "release", lambda sound: lambda self, total, rng: sound(
        self, [1.5 * one for one in total], rng))  # fmt: skip
    assert "independent noise" in failed(plan(steps=10))


def test_division_by_the_size_of_the_batch_that_was_drawn(plant):
    drawn = {}

    def noted(sound):
        def draw(self, rng):
            examples = sound(self, rng)
            drawn["size"] = max(1, len(examples))
            return examples

        return draw

    def realised(sound):
        def release(self, clipped_sum, rng):
            kept, self.denominator = self.denominator, drawn["size"]
            made = sound(self, clipped_sum, rng)
            self.denominator = kept
            return made

        return release

    plant(PoissonSampler, "draw", noted)
    plant(GaussianNoise, "release", realised)
    half = plan(sampling_rate=0.5, denominator=30.0, steps=10)
    assert "noise in every step" in failed(half, canaries=200, examples=16)


@pytest.fixture
def clean(monkeypatch):
    """What the last step would have released without noise, tensor by tensor."""
    sound, sums = GaussianNoise.release, []

    def noted(self, total, rng):
        sums[:] = [(one / self.denominator).float() for one in total]
        return sound(self, total, rng)

    monkeypatch.setattr(GaussianNoise, "release", noted)
    return sums


@pytest.mark.parametrize("tensors", [1, 2])
def test_the_optimizer_gets_the_clean_sum_of_some_tensors(monkeypatch, clean, tensors):
    """Gradients are marked as released only after they were set."""
    sound = steps.mark_released

    def exchanged(released):
        for one, without_noise in list(zip(released, clean, strict=True))[-tensors:]:
            one.copy_(without_noise)
        sound(released)

    monkeypatch.setattr(steps, "mark_released", exchanged)
    assert failed(plan(steps=2)) == {"gradients of the optimizer"}
    if tensors == 2:  # canaries are guessed from what the optimizer got: a bound refutes it as well
        found = audit(plan(noise_multiplier=2.0), runs=1)
        assert found.lower_bound > found.claimed


@pytest.mark.parametrize("when", ["before", "after", "last"])
@pytest.mark.parametrize("what", ["momentum", "weights"])
def test_the_clean_sum_goes_around_the_optimizer(monkeypatch, clean, when, what):
    """Into what it keeps, or into what it trains: before it steps, after, or after the last one."""
    sound = steps.mark_released

    @torch.no_grad()
    def leak(run):
        for parameter, one in zip(run.parameters, clean, strict=True):
            kept = run.optimizer.state[parameter].get("momentum_buffer", torch.zeros_like(one))
            (kept if what == "momentum" else parameter).add_(one)

    def step(self):
        if when == "before":
            monkeypatch.setattr(steps, "mark_released", lambda one: (sound(one), leak(self)))
        done = whole(self)
        if when == "after" or (when == "last" and self.steps_done == self.plan.steps):
            leak(self)
        return done

    whole = PrivateTrainer._step
    monkeypatch.setattr(PrivateTrainer, "_step", step)
    assert failed(plan(steps=3), momentum=0.9) == {"trained weights"}


def test_an_optimizer_that_reads_the_clean_sum_itself(monkeypatch, clean):
    class Reading(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            for parameter, one in zip(self.param_groups[0]["params"], clean, strict=True):
                parameter.sub_(0.1 * (parameter.grad + one))

    monkeypatch.setattr(torch.optim, "SGD", Reading)
    assert failed(plan(steps=3)) == {"trained weights"}


def test_two_steps_of_the_optimizer_on_one_release(monkeypatch):
    sound = steps.mark_released

    def step(self):
        monkeypatch.setattr(
            steps, "mark_released", lambda released: (sound(released), self.optimizer.step())
        )
        return whole(self)

    whole = PrivateTrainer._step
    monkeypatch.setattr(PrivateTrainer, "_step", step)
    assert "gradients of the optimizer" in failed(plan(steps=2))


def test_a_sum_that_is_doubled_before_the_noise(monkeypatch):
    """As if one process had added its own sum twice."""
    monkeypatch.setattr(Ranks, "reduce", lambda self, tensors: torch._foreach_mul_(tensors, 2))
    assert failed(plan(steps=2)) == {"sum before the noise"}


def test_steps_beyond_the_plan(monkeypatch):
    monkeypatch.setattr(PrivateTrainer, "_require_steps_left", lambda self: None)
    assert failed(plan(steps=2)) == {"number of steps"}


@pytest.mark.parametrize("less", [
    lambda sound: lambda rate, *others: sound(rate / 2, *others),
    lambda sound: lambda rate, sigma, count, *others: sound(rate, sigma, count // 2, *others),
    lambda sound: lambda rate, sigma, *others: sound(rate, 1.2 * sigma, *others),
], ids=["half of the rate", "half of the steps", "more noise"])  # fmt: skip
def test_an_accountant_that_counts_less(plant, less):
    plant(plans, "epsilon_stated", less)
    assert failed(plan(sampling_rate=0.2, steps=10)) == {"claimed epsilon"}


def one_class_unclipped(clip, views, labels, bound):
    made = clip(views, labels, bound)
    for own in [i for i, soft in enumerate(labels) if soft[0].argmax() == 7]:
        torch._foreach_add_(
            made.gradients, clip(views[own : own + 1], labels[own : own + 1], 100 * bound).gradients
        )
    return made


def two_at_a_time(clip, views, labels, bound):
    """A mean of two examples, clipped as one: mixup's sensitivity without mixup."""
    even = len(views) // 2 * 2
    if not even:
        return clip(views, labels, bound)
    made = clip(views[:even].unflatten(0, (-1, 2)).flatten(1, 2),
                labels[:even].unflatten(0, (-1, 2)).flatten(1, 2), bound)  # fmt: skip
    norms, losses = made.norms.repeat_interleave(2), made.losses.repeat_interleave(2)
    return replace(made, norms=norms, losses=losses)


def by_view(clip, views, labels, bound):
    made = clip(views, labels, bound)
    for view in range(1, views.shape[1]):
        one = slice(view, view + 1)
        torch._foreach_add_(made.gradients, clip(views[:, one], labels[:, one], bound).gradients)
    return made


@pytest.mark.parametrize("bug", [
    one_class_unclipped, two_at_a_time, by_view,
    lambda clip, views, labels, bound: clip(views, labels, 2 * bound),
], ids=["one class", "two at a time", "view by view", "at 2C"])  # fmt: skip
def test_clipping_that_bounds_less(plant, bug):
    def changed(sound):
        return lambda model, loss, views, labels, bound, chunk: bug(
            lambda some, soft, limit: sound(model, loss, some, soft, limit, chunk),
            views, labels, bound,
        )  # fmt: skip

    plant(engine, "examplewise_sum", changed)
    assert failed(plan(steps=2, sampling_rate=0.1), examples=16) == {"clipped gradients"}


def test_clipping_that_bounds_less_in_the_middle_of_training_alone(plant):
    def doubled(sound):
        def clipped_sum(self, examples, draws, **others):
            made = sound(self, examples, draws, **others)
            if 0 < self.steps_done < self.plan.steps:
                torch._foreach_mul_(made.gradients, 2)
            return made

        return clipped_sum

    plant(PrivateTrainer, "clipped_sum", doubled)
    assert failed(plan(steps=3)) == {"clipped gradients"}


def test_each_tensor_is_clipped_by_itself(monkeypatch):
    def add(self, gradients):
        flat = [one.flatten(1).double() for one in gradients]
        for total, one in zip(self.total, flat, strict=True):
            factors = (self._max_grad_norm / one.norm(dim=1, keepdim=True)).clamp(max=1)
            total += (one * factors).sum(dim=0).view(total.shape)
        return torch.cat(flat, dim=1).norm(dim=1)

    monkeypatch.setattr(ClippedAccumulator, "add", add)
    assert failed(plan(steps=2)) == {"clipped gradients"}


def test_gradients_that_are_not_finite_count(monkeypatch):
    monkeypatch.setattr(
        accumulators, "clip_root", lambda norms, bound: (bound / norms).clamp(max=1).sqrt()
    )
    assert failed(plan(steps=2)) == {"clipped gradients"}


@pytest.mark.parametrize("partner", ["any", "of the same class"])
def test_mixing_with_the_next_example_at_sensitivity_c(monkeypatch, partner):
    sound = ViewBuilder.build

    def across(self, images, labels, draws, source=None):
        made = sound(self, images, labels, draws, source)
        mixed = (made.views[:, -1] + made.views[:, -1].roll(1, dims=0)) / 2
        chosen = (labels == labels.roll(1)) | (partner == "any")
        made.views[:, -1] = torch.where(chosen[:, None, None, None], mixed, made.views[:, -1])
        return made

    monkeypatch.setattr(ViewBuilder, "build", across)
    assert failed(plan(steps=2), examples=24) == {"views of one example"}


def groups_of_a_shuffle(steps_done, rng, examples, rate):
    """Everybody once in 1 / q steps, in groups of binomial size."""
    epoch, group = divmod(steps_done, round(1 / rate))
    groups = np.random.default_rng(epoch).integers(0, round(1 / rate), examples)
    return groups == group


@pytest.mark.parametrize("draw", [
    lambda step, rng, n, rate: np.argsort(np.argsort(rng.random(n))) < round(rate * n),
    groups_of_a_shuffle,
    lambda step, rng, n, rate: np.random.default_rng(5).random(n) < rate,
    lambda step, rng, n, rate: np.random.default_rng(step // 2).random(n) < rate,
    lambda step, rng, n, rate: rng.random(n) < 2 * rate,
    lambda step, rng, n, rate: (rng.random(n) < rate) | (np.arange(n) == 17),
    lambda step, rng, n, rate: rng.random(n) < np.where(np.arange(n) < 3, 2.5 * rate, rate),
    lambda step, rng, n, rate: np.repeat(rng.random(-(-n // 2)), 2)[:n] < rate,
    lambda step, rng, n, rate: np.resize(rng.random(-(-n // 2)), n) < rate,
    lambda step, rng, n, rate: rng.random(n) < (2 * rate if step < 4 else rate),
], ids=["fixed size", "groups of a shuffle", "the same in every step", "the same twice", "at 2q",
        "one always", "one class more often", "neighbours together", "halves together",
        "more at first"])  # fmt: skip
def test_draws_that_are_accounted_as_poisson_draws(monkeypatch, draw):
    taken = count()

    def other(self, rng):
        chosen = draw(next(taken), rng, self.examples, self.rate)
        return torch.from_numpy(np.flatnonzero(chosen))

    monkeypatch.setattr(PoissonSampler, "draw", other)
    assert failed(SAMPLED, canaries=1000, examples=24, method="none") == {"draws of examples"}


def test_an_example_that_is_used_twice_in_a_step(monkeypatch):
    monkeypatch.setattr(
        PrivateTrainer, "_chunks", lambda self, drawn, draws: [drawn, drawn] if len(drawn) else []
    )
    assert "draws of examples" in failed(plan(steps=2))


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
    monkeypatch.setattr("dpmix.pool.load.refuse_overlap", lambda *_: None)
    assert load().facts.images == 31  # the copy is among them
