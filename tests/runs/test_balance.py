"""The balance of the classes from settings to statement: public prevalences, and a paid count."""

import csv

import numpy as np
import pytest

import dpmix
from dpmix.data.source import unit_count
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_gaussian, epsilon_pld
from dpmix.reports.files import ModelFile
from dpmix.reports.verify import verify
from dpmix.runs import tracking
from dpmix.runs.balance import balance_rows
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.runs.fit import smoke_run
from dpmix.runs.folder import RunFolder
from dpmix.runs.record import RunRecord
from dpmix.runs.resume import rebuild_run
from dpmix.training.distributed import ALONE, Ranks
from forged_run import forge
from pictures import write_class_folders

pytestmark = pytest.mark.usefixtures("plain_pages")

PAID = {"class_prevalence": "private", "spend": 0.5}


@pytest.fixture(autouse=True)
def nothing_is_raised(request, monkeypatch):
    """These runs have few images, so that every class would count as rare."""
    if "raised" not in request.node.name:
        monkeypatch.setattr("dpmix.runs.balance.LEAST", 0.0)


@pytest.fixture
def prevalence(tmp_path):
    """Public prevalences of the classes `disc` and `stripes`: 4 to 1."""
    path = tmp_path / "prevalence.csv"
    path.write_text("class,prevalence\nstripes,20\ndisc,80\n")
    return str(path)


@pytest.fixture
def settings(image_root, tmp_path, quick):
    return quick | {"data": str(image_root), "steps": 4, "eval_every": 2, "checkpoint_every": 1}


@pytest.fixture
def build(settings):
    def run(ranks=ALONE, trial=False, **more):
        return build_run(Config.load(**settings | more), ranks=ranks, trial=trial)

    return run


def test_weights_and_the_denominator_follow_from_public_numbers(build, prevalence):
    run = build(class_prevalence=prevalence)
    assert run.config.privacy.balance == "weights" and run.plan.prior_releases == ()
    assert run.config.input.prevalences == pytest.approx((0.8, 0.2))
    # 10 images are expected, each of weight 0.8 / 4 + 0.2 on average.
    assert run.plan.denominator == pytest.approx(4.0) and run.plan.expected_batch_size == 10
    assert run.plan.noise_multiplier == build().plan.noise_multiplier
    weights = run._balance()["weights"]
    assert weights.tolist() == pytest.approx([0.25] * 40 + [1.0] * 40)


def test_sampling_draws_a_class_less_often(build, prevalence):
    run = build(class_prevalence=prevalence, balance="sampling", expected_batch_size=80)
    assert run.plan.sampling_rate == 1.0 and run.plan.denominator == pytest.approx(32)
    drawn = run.trainer()._sampler.draw(np.random.default_rng(0))
    labels = run.splits.train.labels[drawn]
    assert (labels == 1).sum() == 40 and 2 <= (labels == 0).sum() <= 19


def test_a_private_n_leaves_the_denominator_as_it_is_given(build, prevalence):
    private = {"expected_batch_size": None, "sampling_rate": 0.1, "denominator": 8.0}
    assert build(class_prevalence=prevalence, **private).plan.denominator == 8.0


@pytest.mark.parametrize(("changes", "least"), [
    ({}, 20 * 2 / (2 * 80)),
    ({"epsilon": 8.0}, 0.0),
    ({"epsilon": 1.0}, 0.5),  # all classes alike, so that nothing is weighed
    ({"expected_batch_size": None, "sampling_rate": 0.1, "denominator": 9.0}, 20 * 2 / (2 * 90)),
])  # fmt: skip
def test_a_small_share_is_raised_by_public_numbers(build, prevalence, changes, least):
    found = build(class_prevalence=prevalence, **changes).config.input.prevalences
    raised = np.maximum([0.8, 0.2], least)
    assert found == pytest.approx(raised / raised.sum())


def test_no_balance_changes_nothing(build):
    run = build()
    assert run.config.privacy.balance == "none" and run.config.input.prevalences is None
    assert run._balance() == {} and balance_rows(run.config) == []


@pytest.mark.parametrize(("changes", "message"), [
    ({"balance": "weights"}, "balance weights needs .*class-prevalence FILE.* private"),
    ({"balance": "sampling"}, "balance sampling needs"),
    ({"balance": "none", "class_prevalence": "FILE"}, "--balance none has no use for"),
    ({"steps": 0, "class_prevalence": "FILE"}, "--steps 0 has no use for"),
    ({"class_prevalence": "FILE", "method": "microbatch-mixup"}, "images of two classes"),
    ({"class_prevalence": "FILE", "spend": 0.1}, "spend is 0.1 but nothing is counted"),
    ({"class_prevalence": "private", "spend": 2.0}, "spend is 2, a part of epsilon 2"),
    ({"class_prevalence": "private", "spend": 0.0}, "spend is 0, a part"),
    ({"class_prevalence": "private", "expected_runs": 3.0}, "would count again"),
    ({"balance": "weight", "class_prevalence": "FILE"}, "balance"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(build, prevalence, changes, message):
    changes = {name: prevalence if one == "FILE" else one for name, one in changes.items()}
    with pytest.raises(DpmixError, match=message):
        build(**changes)


def test_a_paid_count_is_part_of_epsilon_and_repeats_with_a_seed(build):
    runs = [build(**PAID, seed=seed) for seed in (1, 1, 2)]
    (sigma,) = runs[0].plan.prior_releases
    plan = runs[0].plan
    assert epsilon_gaussian(sigma, plan.delta) == pytest.approx(0.5, rel=0.01)
    whole = epsilon_pld(plan.sampling_rate, plan.noise_multiplier, 4, plan.delta, (sigma,))
    assert whole == pytest.approx(plan.epsilon) and 1.95 < whole <= 2
    assert plan.noise_multiplier > build().plan.noise_multiplier
    first, again, other = (run.config.input.prevalences for run in runs)
    assert first == again != other and sum(first) == pytest.approx(1)


def test_without_a_seed_every_count_has_fresh_noise(build):
    one, other = (build(**PAID).config.input.prevalences for _ in range(2))
    assert one != other


def test_other_processes_take_the_count_of_rank_0(build, monkeypatch):
    sent = []

    def broadcast(ranks, value):
        sent.append(value)
        return (0.6, 0.4)

    monkeypatch.setattr(Ranks, "broadcast_object", broadcast)
    run = build(Ranks(1, 2), **PAID)
    assert sent == [None] and run.config.input.prevalences == (0.6, 0.4)


def test_a_trial_counts_nothing_and_says_so(build, monkeypatch):
    monkeypatch.setattr("dpmix.runs.balance.release_prevalences", lambda *_: 1 / 0)
    run = build(trial=True, **PAID)
    assert run.config.input.prevalences == (0.5, 0.5)
    ((_, text),) = balance_rows(run.config, trial=True)
    assert "a dry run does not make" in text and "epsilon 0.5" in text


def test_a_smoke_run_needs_no_prevalences(settings, prevalence):
    config = Config.load(**settings | {"class_prevalence": prevalence})
    with smoke_run(config, ALONE) as run:
        assert run.config.privacy.balance == "none"


class StoppedError(Exception):
    """The run is stopped here."""


def stop(now):
    if now.step == 2:
        raise StoppedError


@pytest.mark.parametrize("which", ["private", "public"])
def test_a_resumed_run_neither_counts_nor_pays_again(
    settings, tmp_path, prevalence, monkeypatch, which
):
    out = tmp_path / "run"
    chosen = PAID if which == "private" else {"class_prevalence": prevalence}
    with pytest.raises(StoppedError):
        dpmix.fit(output=str(out), report=stop, **settings, **chosen)
    before = ModelFile(out / "model.safetensors").statement
    monkeypatch.setattr("dpmix.runs.balance.release_prevalences", lambda *_: 1 / 0)
    (tmp_path / "prevalence.csv").unlink()  # nor is the file read again
    run, checkpoint = rebuild_run(out)
    stored = Config.load(out / "config.yaml").input.prevalences
    assert run.config.input.prevalences == stored and run.plan == checkpoint.plan
    result = dpmix.fit(resume=out)
    after = ModelFile(out / "model.safetensors").statement
    assert after.complete and after.spent_before == before.spent_before
    assert len(after.spent_before) == (which == "private")
    assert result.plan.denominator == after.denominator
    verify(out)


def test_a_paid_count_is_stated_and_can_not_be_left_out(settings, tmp_path):
    out = tmp_path / "run"
    dpmix.fit(output=str(out), **settings, **PAID)
    statement = verify(out).statement
    assert "a noisy count of the images of each class (epsilon 0.500 alone)" in statement.guarantee
    assert "earlier release" not in statement.guarantee
    card = (out / "MODEL_CARD.md").read_text()
    assert "balance of the classes" in card and "a count that cost epsilon 0.5" in card
    model = forge(out, spent_before=[])
    with pytest.raises(DpmixError, match=r"pay epsilon 0\.5 for a count of the classes"):
        verify(model)


def test_a_path_of_prevalences_is_not_published_and_its_numbers_are(settings, tmp_path, prevalence):
    out = tmp_path / "run"
    dpmix.fit(output=str(out), **settings, class_prevalence=prevalence)
    model = ModelFile(out / "model.safetensors")
    assert "class_prevalence" not in model.settings["privacy"]
    assert model.settings["input"]["prevalences"] == pytest.approx([0.8, 0.2])
    said = " ".join(verify(out).statement.assumptions)
    assert "nobody counted the training images" in said
    assert model.statement.denominator == pytest.approx(4)


def test_a_person_counts_once_with_all_their_images(tmp_path, settings):

    root = tmp_path / "people"
    for side, count in (("train", 12), ("test", 4)):
        write_class_folders(root / side, count, np.random.default_rng(1))
    with (tmp_path / "persons.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "person"])
        for side in ("train", "test"):
            for path in sorted((root / side).rglob("*.png")):
                rows.writerow([path.relative_to(root), f"{side}{int(path.stem) % 6}"])
    chosen = {"data": str(root), "persons": str(tmp_path / "persons.csv"), "method": "self-aug",
              "expected_batch_size": 3}  # fmt: skip
    run = build_run(Config.load(**settings | chosen | PAID))
    assert run.plan.unit == "person" and unit_count(run.examples, "person") == 6
    weights = run._balance()["weights"]
    # Everyone has two images of each class: all have the mean of the two weights.
    assert len(weights) == 6 and weights.tolist() == pytest.approx([float(weights[0])] * 6)
    run.trainer().step()


def test_a_run_that_was_stopped_before_its_first_step_has_spent_its_count(
    build, settings, tmp_path
):
    run = build(**PAID, output=str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt), RunRecord(run, None).open():
        raise KeyboardInterrupt
    with pytest.raises(DpmixError, match=r"is not empty; give another .* or --resume it"):
        build(**PAID, output=str(tmp_path / "run"))
    again, checkpoint = rebuild_run(tmp_path / "run")
    assert checkpoint.step == 0
    assert again.config.input.prevalences == run.config.input.prevalences


def test_a_tracker_gets_no_rate_that_follows_from_the_count(
    build, tmp_path, monkeypatch, unchecked
):
    shown = []
    monkeypatch.setattr(tracking, "WeightsAndBiases", lambda *args: shown.append(args[-1]))
    for name, more in (("paid", PAID), ("none", {})):
        run = build(**more, output=str(tmp_path / name), wandb="study")
        tracking.open_trackers(run.config, RunFolder(run.folder), "a-run", 0)
    assert "learning_rate" not in shown[0] and shown[0]["spend"] == 0.5
    assert shown[1]["learning_rate"] == run.config.optimizer.learning_rate
