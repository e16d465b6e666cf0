"""The learning rate of a run whose user chose none."""

import pytest

from dpmix.privacy.plan import PrivacyPlan
from dpmix.runs.config import Config
from dpmix.runs.defaults import choose_model
from dpmix.runs.rates import choose_rate


def chosen(**settings):
    return choose_model(Config.load(**settings))


@pytest.mark.parametrize("length", [1, 10])
def test_a_heads_rate_leaves_noise_of_two_in_unit_weights_and_is_bounded(length):
    def rate(**settings):
        plan = PrivacyPlan.calibrate(
            **{"n": 1000, "expected_batch_size": 1000, "steps": 50, "epsilon": 3, "delta": 1e-5}
            | settings
        )
        config = chosen(backbone="timm:resnet18", feature_length=length)
        return choose_rate(config, plan, 10).optimizer.learning_rate, plan

    got, plan = rate()
    noise = got / (1 - 0.9) * plan.noise_std * 50**0.5 / 1000
    assert noise == pytest.approx(2 / length, rel=5e-3)
    assert rate(epsilon=1)[0] < got
    assert rate(n=10**6, expected_batch_size=10**6, delta=1e-7)[0] == 64 / length
    assert rate(max_grad_norm=0.1)[0] == pytest.approx(10 * got, rel=5e-3)
    assert rate(epsilon=float("inf"))[0] == 16 / length**2


@pytest.mark.parametrize(
    ("sigma", "steps", "published"),
    [(10, 875, 2), (2.58, 2500, 4)],  # De et al. at epsilon 1; TAN at 8: batches of 4,096, WRN-16-4
)
def test_from_scratch_the_rate_is_near_those_that_were_published(sigma, steps, published):
    def settled(noise=sigma, **settings):
        plan = PrivacyPlan(
            sampling_rate=4096 / 50_000, denominator=4096, noise_multiplier=noise, steps=steps,
            delta=1e-5, max_grad_norm=1, sensitivity_multiplier=1, target_epsilon=1,
        )  # fmt: skip
        return choose_rate(chosen(model="cnn-small", **settings), plan, 10).optimizer

    def rate(noise, **settings):
        return settled(noise, **settings).learning_rate

    assert rate(sigma, momentum=0) == pytest.approx(published, rel=0.2)
    assert rate(sigma) == pytest.approx(rate(sigma, momentum=0) / 10, rel=5e-3)
    # What ran by default is on record, and not only in the code.
    assert settled().momentum == 0.9 and settled(momentum=0.5, learning_rate=1).momentum == 0.5
    assert settled(optimizer="Adam").momentum is None
    assert settled(optimizer_options={"momentum": 0.3}).momentum is None
    assert rate(0.01) == 1 and rate(0.01, momentum=0) == 10
    assert rate(0) == 0.02 and rate(0, momentum=0) == 0.2  # nothing is clipped


def test_a_start_is_left_the_faster_the_more_private_images_a_class_has():
    def part(n, epsilon, classes):
        plan = PrivacyPlan.calibrate(
            n=n, expected_batch_size=n, steps=50, epsilon=epsilon, delta=1e-5
        )
        rates = [
            choose_rate(chosen(backbone="timm:resnet18", **start), plan, classes).optimizer
            for start in ({"head_start": "pool", "pool": "p"}, {"head_start": "zero"})
        ]
        return rates[0].learning_rate / rates[1].learning_rate

    # Measured on Tiny-ImageNet: 38 images a class (docs/defaults.md).
    assert part(7600, 1, 200) == pytest.approx(1 / 8, rel=0.02)
    assert part(7600, 3, 200) == pytest.approx(0.26, rel=0.02)
    assert part(7600, 8, 200) == pytest.approx(1 / 2, rel=0.02)
    assert part(5000, 1, 10) == pytest.approx(0.7, rel=0.02)
    assert part(5000, 8, 10) == part(50_000, 1, 10) == 1


def test_scatter_cnn_has_the_rate_of_a_network_up_to_another_bound():
    def rate(model, epsilon):
        plan = PrivacyPlan.calibrate(
            n=50_000, expected_batch_size=8192, steps=150, epsilon=epsilon, delta=1e-5
        )
        return choose_rate(chosen(model=model), plan, 10).optimizer.learning_rate

    assert rate("wrn-16-4", 8) == 1 < rate("scatter-cnn", 1) < rate("scatter-cnn", 8) == 4
