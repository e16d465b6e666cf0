"""From settings to a run folder, by the Python interface."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import dpmix
from dpmix.data import load_splits
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_gaussian, epsilon_pld
from dpmix.runs import record
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.runs.fit import train_run
from dpmix.runs.load import load_run
from dpmix.training.evaluate import InFull, evaluate

HEAD = {"backbone": "scatternet", "model": None, "steps": 3, "expected_batch_size": None}


@pytest.fixture
def fit(image_root, tmp_path, quick):
    """Run `dpmix.fit` on small images, in folder `run` where no other is given."""
    given = quick | {"data": str(image_root), "cache_dir": str(tmp_path / "features")}

    def call(output="run", **settings):
        return dpmix.fit(output=str(tmp_path / output), **given | settings)

    return call


def statement_of(run):
    return json.loads((run.folder / "privacy.json").read_text())


def published(folder):
    """Every file of a run but the private ones, as text."""
    return {
        path.name: path.read_bytes().decode("latin-1")
        for path in folder.iterdir()
        if path.is_file()
    }


def test_the_folder_holds_the_model_the_settings_and_the_statement(fit):
    run = fit(device="cpu")
    assert {path.name for path in run.folder.iterdir()} == {
        "model.safetensors", "config.yaml", "privacy.json", "metrics.json", "MODEL_CARD.md",
        "report.html", "diagnostics",
    }  # fmt: skip
    said = statement_of(run)
    assert said["private"] and said["complete"] and not said["seeded"]
    assert (said["sampling_rate"], said["denominator"]) == (10 / 80, 10)
    assert said["epsilon"] == pytest.approx(epsilon_pld(10 / 80, said["noise_multiplier"], 2, 1e-3))
    assert 2 * 0.995 < said["epsilon"] <= 2
    # The saved model is the one that was evaluated, and holds nothing else.
    saved = load_run(run.folder, "cpu")
    assert saved.input.class_names == ("disc", "stripes")
    test = load_splits(str(run.config.data.data)).test
    found = evaluate(saved.model, test, saved.normalization, torch.device("cpu"), InFull())
    assert found == run.evaluation
    assert set(load_file(run.folder / "model.safetensors")) == set(run.model.state_dict())
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, saved.model.state_dict()[name])


def test_private_numbers_stay_in_diagnostics(fit):
    run = fit()
    log = (run.folder / "diagnostics" / "steps.jsonl").read_text().splitlines()
    numbers = [str(json.loads(line)[key]) for line in log for key in ("loss", "median_norm")]
    keys = {"step", "drawn", "loss", "clipped", "median_norm", "dropped", "seconds"}
    assert all(set(json.loads(line)) == keys for line in log)
    assert [json.loads(line)["step"] for line in log] == [1, 2]
    private = [f'"{key}"' for key in keys - {"step", "seconds"}]
    for name, text in published(run.folder).items():
        for said in private + numbers:
            assert said not in text, (name, said)
        assert "rng" not in text.lower() and "mt19937" not in text.lower()
    assert "PRIVATE" in (run.folder / "diagnostics" / "PRIVATE.txt").read_text()


def test_two_unseeded_runs_differ_and_two_seeded_ones_do_not(fit):
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    weights = []
    for index, seed in enumerate([None, None, 7, 7]):
        # On a GPU two runs with one seed differ in their last bits.
        run = fit(f"r{index}", device="cpu", seed=seed)
        weights.append(torch.cat([p.flatten() for p in run.model.parameters()]))
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[2], weights[3])
    assert (np.random.get_state()[1] == before).all(), "the global stream is untouched"  # noqa: NPY002


def test_every_output_of_a_seeded_run_says_so(fit):
    run = fit(seed=7)
    said, texts = statement_of(run), published(run.folder)
    assert said["seeded"] and "SEEDED (7)" in said["guarantee"]
    assert "SEEDED (7)" in texts["MODEL_CARD.md"]
    assert "<strong>SEEDED RUN</strong>" in texts["report.html"]
    assert json.loads(texts["metrics.json"])["seed"] == 7
    assert yaml.safe_load(texts["config.yaml"])["run"]["seed"] == 7


def test_without_epsilon_every_output_says_not_private_and_it_learns(fit):
    run = fit(epsilon=float("inf"), steps=25, learning_rate=0.1, seed=0, flip=True)
    assert run.evaluation.accuracy > 0.9
    said, texts = statement_of(run), published(run.folder)
    assert said["private"] is False and said["guarantee"].startswith("NOT PRIVATE")
    assert said["epsilon"] == "inf" and said["noise_std"] == 0
    assert said["assumptions"] == [] and "Gaussian" not in said["mechanism"]
    assert (
        "NOT PRIVATE" in texts["MODEL_CARD.md"] and "guarantee means" not in texts["MODEL_CARD.md"]
    )
    assert "<strong>NOT PRIVATE</strong>" in texts["report.html"]
    assert json.loads(texts["metrics.json"])["private"] is False


@pytest.mark.parametrize("method", ["self-aug", "microbatch-mixup"])
def test_every_method_trains(fit, method):
    said = statement_of(fit(method=method))
    factor = 2 if method == "microbatch-mixup" else 1
    assert said["noise_std"] == pytest.approx(factor * said["noise_multiplier"])
    assert said["sensitivity"] == factor


def test_mix_diff_trains_with_a_folder_of_public_images(fit, public_root):
    role = "extra"
    run = fit(method="mix-diff", pool=str(public_root), pool_draw="same-class", pool_role=role)
    said = statement_of(run)
    pool = said["public_inputs"]["pool"]
    assert (pool["images"], pool["role"], "name" in pool) == (30, role, False)
    assert pool["manifest_sha256"] is None and len(pool["contents_sha256"]) == 64
    assert said["sensitivity"] == 1
    assert any("public pool" in one for one in said["assumptions"])
    assert "| public pool | 30 images" in (run.folder / "MODEL_CARD.md").read_text()


def test_pretraining_on_the_pool_comes_before_the_private_steps(fit, public_root):
    pool = {"pool": str(public_root), "pool_role": "pretrain", "pretrain_epochs": 30}
    # A step of such a rate moves nothing: what the model knows, it knows from the pool.
    still = {"learning_rate": 1e-9, "ema_decay": 0.0, "flip": True, "seed": 0}
    run = fit(**pool, **still)
    assert run.evaluation.accuracy > 0.9
    assert statement_of(run)["public_inputs"]["pool"]["role"] == "pretrain"
    card = (run.folder / "MODEL_CARD.md").read_text()
    assert "| pretraining | on the public pool alone |" in card
    assert fit("fresh", **still).evaluation.accuracy < 0.9


def test_an_earlier_release_is_counted_in_the_same_epsilon(fit, tmp_path):
    record = {
        "what": "a count", "written": "2026-01-01T00:00:00", "noise_multiplier": 4.0,
        "epsilon": epsilon_gaussian(4.0, 1e-4), "delta": 1e-4,
        "neighbouring_relation": "add or remove one training example",
    }  # fmt: skip
    report = tmp_path / "count.json"
    report.write_text(json.dumps({"release": record}))
    plain, run = fit("plain"), fit(prior_releases=(str(report),))
    assert run.plan.epsilon <= 2 and run.plan.epsilon == pytest.approx(2, rel=5e-3)
    assert run.plan.noise_multiplier > 1.01 * plain.plan.noise_multiplier
    said = statement_of(run)
    assert said["spent_before"] == [4.0]
    assert "includes 1 earlier release(s)" in said["guarantee"]
    assert any("chosen by the earlier" in one for one in said["assumptions"])
    assert "earlier releases" in (run.folder / "MODEL_CARD.md").read_text()


def test_a_rate_and_a_denominator_keep_n_out_of_the_statement(fit):
    said = statement_of(fit(sampling_rate=0.1, denominator=9, expected_batch_size=None))
    assert said["examples"] is None and 80 not in said.values()
    assert (said["sampling_rate"], said["denominator"]) == (0.1, 9)
    assert not any("N is public" in one for one in said["assumptions"])


def test_a_run_that_dies_leaves_its_last_model_and_a_true_statement(fit, tmp_path):
    class PowerCutError(Exception):
        pass

    def cut(now):
        if now.step == 3:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        fit(report=cut, eval_every=2, steps=6)
    folder = tmp_path / "run"
    said = json.loads((folder / "privacy.json").read_text())
    assert (said["steps"], said["planned_steps"], said["complete"]) == (2, 6, False)
    for name, steps in (("epsilon", 6), ("epsilon_at_fixed_stop", 2)):
        expected = epsilon_pld(10 / 80, said["noise_multiplier"], steps, 1e-3)
        assert said[name] == pytest.approx(expected)
    assert load_run(folder, "cpu").input.class_names == ("disc", "stripes")
    assert len((folder / "diagnostics" / "steps.jsonl").read_text().splitlines()) == 3


def test_the_python_examples_of_the_readme_run(tmp_path, monkeypatch):
    """The blocks as printed, but with fewer steps."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        shorter = re.sub(r"steps=\d+", "steps=1", block)
        assert "steps=1" in shorter
        exec(compile(shorter, "README.md", "exec"), {})
    assert any((tmp_path / "runs").iterdir())


def test_a_head_on_a_backbone_is_trained_saved_and_rebuilt(fit, tmp_path):
    run = fit(**HEAD, fresh_views=True, device="cpu", image_size=16, backbone_size=16)
    assert not (tmp_path / "features").is_dir()
    saved = load_run(run.folder, "cpu")
    names = load_file(run.folder / "model.safetensors").keys()
    assert names == {"head.linear.weight", "head.linear.bias"}
    test = load_splits(str(run.config.data.data), image_size=16, channels=3).test
    again = evaluate(saved.model, test, saved.normalization, torch.device("cpu"))
    one_image = 0.051
    assert again.accuracy == pytest.approx(run.evaluation.accuracy, abs=one_image)
    said = statement_of(run)["public_inputs"]["backbone"]
    assert said["name"] == HEAD["backbone"]
    assert said["weights_sha256"] == saved.config.input.backbone_sha256
    assert f"{HEAD['backbone']}: " in (run.folder / "MODEL_CARD.md").read_text()


def test_a_second_run_embeds_nothing_and_another_backbone_is_refused(fit, tmp_path):
    run = fit(**HEAD, cache_views=6, image_size=32)
    told = []
    second = run.config.run.model_copy(update={"output": str(tmp_path / "b")})
    again = build_run(Config.load(run.folder / "config.yaml").model_copy(update={"run": second}))
    train_run(again, embedding=lambda *now: told.append(now))
    assert told == [(480, 480), (20, 20)]
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("backbone_size: null", "backbone_size: 24"))
    with pytest.raises(DpmixError, match=r"are not those that the run of '.*' was trained on"):
        load_run(run.folder)


def test_an_overwriting_run_that_fails_early_leaves_the_earlier_run(fit, tmp_path):
    fit()
    before = published(tmp_path / "run")

    def cut(now):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(report=cut, overwrite=True, eval_every=2)
    assert published(tmp_path / "run") == before
    fit(overwrite=True)
    assert published(tmp_path / "run")["model.safetensors"] != before["model.safetensors"]


def test_a_model_that_cannot_be_trained_is_refused_before_its_views_are_embedded(fit, tmp_path):
    with pytest.raises(DpmixError, match=r"microbatch-mixup joins .*can't be cached"):
        fit(**HEAD, method="microbatch-mixup")
    assert not (tmp_path / "features").exists() and not (tmp_path / "run").exists()


def test_whitening_takes_its_statistics_from_the_pool(fit, public_root):
    run = fit(**HEAD, cache_views=6, feature_norm="whiten", pool=str(public_root))
    assert load_run(run.folder).model.head.scale.std() > 0


def test_an_overwriting_run_that_its_tracker_refuses_leaves_all_of_the_earlier_run(
    fit, tmp_path, monkeypatch
):
    run = fit()
    (run.folder / "audit.json").write_text("{}")
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "step-00000001.pt").touch()

    def files():
        found = [path for path in run.folder.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in found if path.name != "steps.jsonl"}

    before = files()

    def refuses(*_):
        raise DpmixError("no key")

    monkeypatch.setattr(record, "open_trackers", refuses)
    with pytest.raises(DpmixError, match="no key"):
        fit(overwrite=True)
    assert files() == before


def test_an_audit_goes_with_the_model_that_it_is_of(fit):
    run = fit()
    (run.folder / "audit.json").write_text("{}")
    fit(overwrite=True)
    assert not (run.folder / "audit.json").exists()


def test_a_subset_of_a_stated_size_tells_n(fit):
    with pytest.raises(DpmixError, match=r"train_images is 30, which .* tells N; leave it out"):
        fit(train_images=30, sampling_rate=0.1, denominator=9, expected_batch_size=None)


def test_a_run_whose_sums_are_float32_says_so_everywhere(fit):
    plain, run = fit("plain"), fit(engine="bookkeeping")
    said = "Clipped gradients were added in float32"
    assert any(said in line for line in statement_of(run)["assumptions"])
    assert all(said in (run.folder / name).read_text() for name in ("MODEL_CARD.md", "report.html"))
    assert not any(said in line for line in statement_of(plain)["assumptions"])
    assert json.loads((run.folder / "metrics.json").read_text())["engine"] == "bookkeeping"
