"""From settings to a run folder, by the Python interface."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import dpmix
from dpmix.data import load_splits
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_gaussian, epsilon_pld
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.runs.fit import run as run_assembled
from dpmix.runs.load import load_run
from dpmix.training.evaluate import evaluate

PRIVATE_KEYS = ("clipped", "median_norm", "dropped", "drawn", "loss")


def run(image_root, tmp_path, **settings):
    return dpmix.fit(data=str(image_root), output=str(tmp_path / "run"), **settings)


def released(folder):
    """Every file of a run but the private ones, as text."""
    return {
        path.name: path.read_bytes().decode("latin-1")
        for path in folder.iterdir()
        if path.is_file()
    }


def test_the_folder_holds_the_model_the_settings_and_the_statement(image_root, tmp_path, quick):
    result = run(image_root, tmp_path, **quick)
    names = {path.name for path in result.folder.iterdir()}
    assert names == {
        "model.safetensors", "config.yaml", "privacy.json", "metrics.json", "MODEL_CARD.md",
        "report.html",
        "diagnostics",
    }  # fmt: skip
    statement = json.loads((result.folder / "privacy.json").read_text())
    assert statement["private"] and statement["complete"] and not statement["seeded"]
    weights = (result.folder / "model.safetensors").read_bytes()
    assert statement["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert statement["sampling_rate"] == 10 / 80
    assert statement["denominator"] == 10
    recomputed = epsilon_pld(10 / 80, statement["noise_multiplier"], 2, 1e-3)
    assert statement["epsilon"] == pytest.approx(recomputed)
    assert 2 * 0.995 < statement["epsilon"] <= 2


def test_the_saved_model_is_the_one_that_was_evaluated(image_root, tmp_path, quick):
    result = run(image_root, tmp_path, device="cpu", **quick)
    saved = load_run(result.folder, "cpu")
    assert saved.input.class_names == ("disc", "stripes")
    test = load_splits(str(image_root)).test
    again = evaluate(saved.model, test, saved.normalization, torch.device("cpu"))
    assert again == result.evaluation
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, saved.model.state_dict()[name])


def test_private_numbers_stay_in_diagnostics(image_root, tmp_path, quick):
    result = run(image_root, tmp_path, **quick)
    log = (result.folder / "diagnostics" / "steps.jsonl").read_text().splitlines()
    numbers = [str(json.loads(line)[key]) for line in log for key in ("loss", "median_norm")]
    for name, text in released(result.folder).items():
        for said in [f'"{key}"' for key in PRIVATE_KEYS] + numbers:
            assert said not in text, (name, said)
    assert [json.loads(line)["step"] for line in log] == [1, 2]
    assert set(json.loads(log[0])) == {
        "step",
        "drawn",
        "loss",
        "clipped",
        "median_norm",
        "dropped",
        "seconds",
    }
    assert "PRIVATE" in (result.folder / "diagnostics" / "PRIVATE.txt").read_text()


def test_no_generator_state_is_ever_saved(image_root, tmp_path, quick):
    result = run(image_root, tmp_path, **quick)
    model = set(result.model.state_dict())
    assert set(load_file(result.folder / "model.safetensors")) == model
    for text in released(result.folder).values():
        assert "rng" not in text.lower() and "mt19937" not in text.lower()


def test_two_unseeded_runs_differ_and_two_seeded_ones_do_not(image_root, tmp_path, quick):
    weights = []
    for index, seed in enumerate([None, None, 7, 7]):
        # On a GPU two runs with one seed differ in their last bits.
        chosen = quick | {"device": "cpu", "seed": seed}
        result = dpmix.fit(data=str(image_root), output=str(tmp_path / f"r{index}"), **chosen)
        weights.append(torch.cat([p.flatten() for p in result.model.parameters()]))
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[2], weights[3])


def test_every_output_of_a_seeded_run_says_so(image_root, tmp_path, quick):
    result = run(image_root, tmp_path, seed=7, **quick)
    statement = json.loads((result.folder / "privacy.json").read_text())
    assert statement["seeded"] and "SEEDED (7)" in statement["guarantee"]
    assert "SEEDED (7)" in (result.folder / "MODEL_CARD.md").read_text()
    assert "<strong>SEEDED RUN</strong>" in (result.folder / "report.html").read_text()
    assert json.loads((result.folder / "metrics.json").read_text())["seed"] == 7
    assert yaml.safe_load((result.folder / "config.yaml").read_text())["run"]["seed"] == 7


def test_without_epsilon_every_output_says_not_private(image_root, tmp_path, quick):
    result = run(image_root, tmp_path, **quick | {"epsilon": float("inf")})
    statement = json.loads((result.folder / "privacy.json").read_text())
    assert statement["private"] is False
    assert statement["guarantee"].startswith("NOT PRIVATE")
    assert statement["epsilon"] == "inf" and statement["noise_std"] == 0
    assert statement["assumptions"] == [] and "Gaussian" not in statement["mechanism"]
    card = (result.folder / "MODEL_CARD.md").read_text()
    assert "NOT PRIVATE" in card and "guarantee means" not in card
    assert "<strong>NOT PRIVATE</strong>" in (result.folder / "report.html").read_text()
    assert json.loads((result.folder / "metrics.json").read_text())["private"] is False


def test_it_learns_without_privacy(image_root, tmp_path, quick):
    settings = quick | {"epsilon": float("inf"), "steps": 25, "learning_rate": 0.1, "seed": 0}
    result = run(image_root, tmp_path, flip=True, **settings)
    assert result.evaluation.accuracy > 0.9


@pytest.mark.parametrize("method", ["none", "self-aug", "mix-self", "microbatch-mixup"])
def test_every_method_trains(image_root, tmp_path, quick, method):
    result = run(image_root, tmp_path, method=method, **quick)
    statement = json.loads((result.folder / "privacy.json").read_text())
    factor = 2 if method == "microbatch-mixup" else 1
    assert statement["noise_std"] == pytest.approx(factor * statement["noise_multiplier"])
    assert statement["sensitivity"] == factor


@pytest.mark.parametrize("pool", ["images", "images/train", "images/train/../test", "."])
@pytest.mark.parametrize("home", ["", "data", "pool"])
def test_a_pool_that_overlaps_the_private_images_is_refused(
    image_root, tmp_path, quick, pool, home, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = "~/images" if home == "data" else str(image_root)
    place = f"~/{pool}" if home == "pool" else str(tmp_path / pool)
    with pytest.raises(DpmixError, match="overlaps the private data"):
        dpmix.fit(data=data, method="mix-diff", pool=place, **quick)


def test_mix_diff_trains_with_a_folder_of_public_images(image_root, public_root, tmp_path, quick):
    result = run(image_root, tmp_path, method="mix-diff", pool=str(public_root), **quick)
    statement = json.loads((result.folder / "privacy.json").read_text())
    pool = statement["public_inputs"]["pool"]
    assert (pool["images"], pool["role"], "name" in pool) == (30, "mix", False)
    assert pool["manifest_sha256"] is None and len(pool["contents_sha256"]) == 64
    assert any("public pool" in said for said in statement["assumptions"])
    assert "| public pool | 30 images" in (result.folder / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_pool_with_a_copy_of_a_private_image_is_refused(
    image_root, public_root, tmp_path, quick, side
):
    shutil.copy(image_root / side / "disc" / "003.png", public_root / "stripes" / "x.png")
    kind = {"train": "training", "test": "test"}[side]
    with pytest.raises(DpmixError, match=rf"not public: 1 .*private {kind} .*stripes/x\.png"):
        run(image_root, tmp_path, method="mix-diff", pool=str(public_root), **quick)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("draw", ["same-class", "other-class"])
@pytest.mark.parametrize("role", ["mix", "extra"])
def test_every_draw_and_role_trains(image_root, public_root, tmp_path, quick, draw, role):
    chosen = {"method": "mix-diff", "pool": str(public_root), "pool_draw": draw, "pool_role": role}
    result = run(image_root, tmp_path, **chosen, **quick)
    statement = json.loads((result.folder / "privacy.json").read_text())
    assert statement["public_inputs"]["pool"]["role"] == role
    assert statement["sensitivity"] == 1


def test_pretraining_on_the_pool_comes_before_the_private_steps(
    image_root, public_root, tmp_path, quick
):
    chosen = {"pool": str(public_root), "pool_role": "pretrain", "pretrain_epochs": 30, "seed": 0}
    # A step of such a rate moves nothing: what the model knows, it knows from the pool.
    still = quick | {"learning_rate": 1e-9, "ema_decay": 0.0, "flip": True}
    result = run(image_root, tmp_path, **chosen, **still)
    assert result.evaluation.accuracy > 0.9
    statement = json.loads((result.folder / "privacy.json").read_text())
    assert statement["public_inputs"]["pool"]["role"] == "pretrain"
    card = (result.folder / "MODEL_CARD.md").read_text()
    assert "| pretrained weights | on the public pool alone |" in card
    fresh = run(image_root, tmp_path / "fresh", seed=0, **still)
    assert fresh.evaluation.accuracy < 0.9


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pool_labels": "map.csv"}, "pool_labels is 'map.csv' but there is no pool"),
        ({"pool_role": "pretrain"}, "pool_role is 'pretrain' but there is no pool"),
        ({"pool_unmapped": "leave-out"}, "pool_unmapped is 'leave-out' but there is no pool"),
        ({"pool": "PUBLIC"}, "mix-self reads no public pool"),
        ({"pool": "PUBLIC", "pool_role": "pretrain", "method": "mix-diff"}, "nothing to mix in"),
    ],
)
def test_pool_settings_that_do_nothing_are_refused(
    image_root, public_root, tmp_path, quick, settings, said
):
    chosen = {k: str(public_root) if v == "PUBLIC" else v for k, v in settings.items()}
    with pytest.raises(DpmixError, match=said):
        run(image_root, tmp_path, **chosen, **quick)


def test_an_earlier_release_is_counted_in_the_same_epsilon(image_root, tmp_path, quick):
    record = {
        "what": "a count", "written": "2026-01-01T00:00:00", "noise_multiplier": 4.0,
        "epsilon": epsilon_gaussian(4.0, 1e-4), "delta": 1e-4,
        "neighbouring_relation": "add or remove one training example",
    }  # fmt: skip
    report = tmp_path / "count.json"
    report.write_text(json.dumps({"release": record}))
    plain = run(image_root, tmp_path / "plain", **quick)
    result = run(image_root, tmp_path / "spent", spent=(str(report),), **quick)
    assert result.plan.epsilon <= 2 and result.plan.epsilon == pytest.approx(2, rel=5e-3)
    assert result.plan.noise_multiplier > 1.01 * plain.plan.noise_multiplier
    statement = json.loads((result.folder / "privacy.json").read_text())
    assert statement["spent_before"] == [4.0]
    assert "includes 1 earlier release(s)" in statement["guarantee"]
    assert any("chosen by the earlier" in said for said in statement["assumptions"])
    assert "earlier releases" in (result.folder / "MODEL_CARD.md").read_text()


def test_an_npz_trains_with_adam_a_cosine_and_epochs(digits_npz, tmp_path, quick):
    settings = {k: v for k, v in quick.items() if k != "steps"}
    result = dpmix.fit(
        data=str(digits_npz), output=str(tmp_path / "run"), optimizer="Adam", epochs=0.5,
        schedule="cosine", learning_rate=0.01, **settings,
    )  # fmt: skip
    assert result.plan.steps == 3
    assert result.plan.sampling_rate == 10 / 60


def test_a_rate_and_a_denominator_keep_n_out_of_the_statement(image_root, tmp_path, quick):
    settings = {k: v for k, v in quick.items() if k != "expected_batch_size"}
    result = run(image_root, tmp_path, sampling_rate=0.1, denominator=9, **settings)
    statement = json.loads((result.folder / "privacy.json").read_text())
    assert statement["examples"] is None
    assert (statement["sampling_rate"], statement["denominator"]) == (0.1, 9)
    assert not any("N is public" in said for said in statement["assumptions"])
    assert 80 not in statement.values()


def test_a_run_that_dies_leaves_its_last_model_and_a_true_statement(image_root, tmp_path, quick):
    class PowerCutError(Exception):
        pass

    def cut(now):
        if now.step == 3:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run(image_root, tmp_path, report=cut, eval_every=2, **quick | {"steps": 6})
    folder = tmp_path / "run"
    statement = json.loads((folder / "privacy.json").read_text())
    assert (statement["steps"], statement["planned_steps"], statement["complete"]) == (2, 6, False)
    for name, steps in (("epsilon", 6), ("epsilon_at_fixed_stop", 2)):
        expected = epsilon_pld(10 / 80, statement["noise_multiplier"], steps, 1e-3)
        assert statement[name] == pytest.approx(expected)
    assert load_run(folder, "cpu").input.class_names == ("disc", "stripes")
    assert len((folder / "diagnostics" / "steps.jsonl").read_text().splitlines()) == 3


def test_an_overwriting_run_that_fails_early_leaves_the_earlier_run(image_root, tmp_path, quick):
    run(image_root, tmp_path, **quick)
    before = released(tmp_path / "run")

    def cut(now):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(image_root, tmp_path, report=cut, overwrite=True, eval_every=2, **quick)
    assert released(tmp_path / "run") == before
    run(image_root, tmp_path, overwrite=True, **quick)
    assert released(tmp_path / "run")["model.safetensors"] != before["model.safetensors"]


def test_a_mistake_is_found_before_the_folder_is_touched(image_root, tmp_path, quick):
    with pytest.raises(DpmixError, match="unknown model 'wrn-16-5': did you mean 'wrn-16-4'"):
        run(image_root, tmp_path, **quick | {"model": "wrn-16-5"})
    assert not (tmp_path / "run").exists()


def test_a_damaged_run_folder_is_named(tmp_path):
    with pytest.raises(DpmixError, match="is no run folder"):
        load_run(tmp_path)
    (tmp_path / "config.yaml").write_text("privacy: {epsilon: 3}\n")
    with pytest.raises(DpmixError, match="has no section 'input'"):
        load_run(tmp_path)


def test_the_python_examples_of_the_readme_run(tmp_path, monkeypatch, quick):
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


def test_the_public_names_are_few():
    assert set(dpmix.__all__) == {
        "PrivacyPlan", "PrivateTrainer", "ViewBuilder", "ViewSpec", "clipped_gradient_sum", "fit",
        "make_private",
    }  # fmt: skip
    assert all(hasattr(dpmix, name) for name in dpmix.__all__)


def test_a_seed_does_not_touch_the_global_numpy_stream(image_root, tmp_path, quick):
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    run(image_root, tmp_path, seed=1, **quick)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


BACKBONE = {"backbone": "scatternet", "model": None, "steps": 3, "expected_batch_size": None}


def on_backbone(image_root, tmp_path, quick, **settings):
    chosen = quick | BACKBONE | {"cache_dir": str(tmp_path / "features"), "cache_views": 6}
    return run(image_root, tmp_path, **chosen | settings)


@pytest.mark.parametrize("cached", [True, False])
def test_a_head_on_a_backbone_is_trained_saved_and_rebuilt(image_root, tmp_path, quick, cached):
    result = on_backbone(
        image_root, tmp_path, quick, fresh_views=not cached, cache_views=6 if cached else None,
        device="cpu",
    )  # fmt: skip
    assert (tmp_path / "features").is_dir() == cached
    saved = load_run(result.folder, "cpu")
    names = load_file(result.folder / "model.safetensors").keys()
    assert names == {"head.linear.weight", "head.linear.bias"}
    test = load_splits(str(image_root), image_size=32, channels=3).test
    again = evaluate(saved.model, test, saved.normalization, torch.device("cpu"))
    assert again.accuracy == pytest.approx(result.evaluation.accuracy, abs=0.051)
    said = json.loads((result.folder / "privacy.json").read_text())["public_inputs"]["backbone"]
    assert (said["name"], said["embedding_size"]) == ("scatternet", 3888)
    assert said["weights_sha256"] == saved.config.input.backbone_sha256
    card = (result.folder / "MODEL_CARD.md").read_text()
    assert "scatternet: no trained weights: wavelet scattering" in card and "3888 features" in card


def test_a_second_run_embeds_nothing(image_root, tmp_path, quick):
    on_backbone(image_root, tmp_path, quick, image_size=32)
    told = []
    chosen = quick | BACKBONE | {
        "cache_dir": str(tmp_path / "features"), "cache_views": 6, "epsilon": 5,
        "data": str(image_root), "output": str(tmp_path / "b"), "image_size": 32,
    }  # fmt: skip
    run_assembled(build_run(Config.load(**chosen)), embedding=lambda *now: told.append(now))
    assert told == [(480, 480), (20, 20)]


def test_another_backbone_than_the_runs_is_refused(image_root, tmp_path, quick):
    result = on_backbone(image_root, tmp_path, quick)
    path = result.folder / "config.yaml"
    path.write_text(path.read_text().replace("backbone_size: null", "backbone_size: 24"))
    with pytest.raises(DpmixError, match=r"are not those that the run of '.*' was trained on"):
        load_run(result.folder)


def test_whitening_needs_public_images(image_root, public_root, tmp_path, quick):
    with pytest.raises(DpmixError, match=r"feature_norm whiten needs public images.*--pool"):
        on_backbone(image_root, tmp_path, quick, feature_norm="whiten")
    result = on_backbone(image_root, tmp_path, quick, feature_norm="whiten", pool=str(public_root))
    saved = load_run(result.folder)
    assert saved.model.head.scale.std() > 0


def test_norms_and_biases_of_a_network_train_without_a_cache(image_root, tmp_path, quick):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    import timm

    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "model.safetensors")
    result = on_backbone(
        image_root, tmp_path, quick, backbone="timm:test_vit", cache_views=None,
        backbone_weights=str(tmp_path / "model.safetensors"), trainable="norm-and-bias",
        expected_batch_size=4, steps=1,
    )  # fmt: skip
    names = load_file(result.folder / "model.safetensors").keys()
    assert any(name.startswith("backbone.body.blocks.0.norm1") for name in names)
    assert not any(name.endswith("qkv.weight") for name in names)
    load_run(result.folder)


def test_processes_compare_what_must_be_equal_and_not_where_it_lies(image_root, tmp_path, quick):
    def fixed(**changes):
        return build_run(Config.load(data=str(image_root), **quick | changes)).fixed()

    moved = tmp_path / "elsewhere"
    shutil.copytree(image_root, moved)
    here = fixed()
    assert here == fixed(workers=1, output="a", device="cpu")
    assert here == build_run(Config.load(data=str(moved), **quick)).fixed()
    for changes in ({"max_grad_norm": 2.0}, {"k_base": 3}, {"seed": 1}, {"learning_rate": 0.2}):
        assert here != fixed(**changes)
    next((moved / "train" / "disc").iterdir()).unlink()
    assert here != build_run(Config.load(data=str(moved), **quick)).fixed()


def test_a_folder_that_is_taken_is_noticed_before_the_data_are_read(tmp_path):
    (tmp_path / "something").touch()
    with pytest.raises(DpmixError, match="is not empty"):
        dpmix.fit(data="no-such-data", output=str(tmp_path))
