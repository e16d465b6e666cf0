"""`dpmix verify`: a run as it was written holds; whatever is changed in it is found."""

import json
import shutil
import sys
import time

import pytest

import dpmix
from dpmix.cli.app import application
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_pld
from dpmix.reports.prv import epsilon_prv
from dpmix.reports.statement import shown_epsilon
from dpmix.reports.verify import verify
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.runs.fit import train_run
from example_audit import audit_of_run
from forged_run import forge

SMALL = {
    "data": "mnist5k", "epsilon": 3, "expected_batch_size": 400, "k_base": 2, "k_self": 2,
    "crop_padding": 1, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify") / "run"
    dpmix.fit(**SMALL, steps=2, output=str(folder))
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def shown(run, capsys):
    application(["verify"])(["verify", str(run)], standalone_mode=False)
    return " ".join(capsys.readouterr().out.split())


def test_a_run_as_it_was_written_holds_and_so_does_its_model_alone(run, tmp_path):
    found = verify(run)
    low, high = found.prv
    assert low <= found.statement.epsilon <= high * 1.01
    shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors")
    assert verify(tmp_path / "alone.safetensors") == found


def test_one_changed_byte_is_found(run):
    path = run / "model.safetensors"
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for place in (*range(0, header, header // 40), *range(header, len(content), 20_000)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(DpmixError):
            verify(path)


@pytest.mark.parametrize(("fields", "said"), [
    ({"epsilon": 1.0}, "epsilon"),
    ({"epsilon_rdp": 1.0}, "epsilon_rdp is 1"),
    ({"noise_multiplier": 2.0, "noise_std": 2.0}, "epsilon_rdp is"),
    ({"assumptions": []}, "assumptions"),
    ({"resumed_at": [1]}, "assumptions"),
    ({"spent_before": [50.0]}, "epsilon_rdp"),
    ({"examples": None}, "has no settings of a run"),
    ({"examples": 400_000, "sampling_rate": 400 / 400_000}, "epsilon_rdp"),
    ({"sampling_rate": 0.5}, "sampling_rate"),
    ({"planned_steps": 1, "steps": 1}, "planned_steps"),
    ({"steps": 1, "complete": False}, "guarantee"),
    ({"steps": 3}, "steps is 3, more than planned_steps"),
    ({"delta": 1e-6}, "delta"),
    ({"max_grad_norm": 0.5}, "max_grad_norm"),
    ({"sensitivity": 0.5}, "sensitivity"),
    ({"seeded": True}, "seeded"),
    ({"guarantee": "The model is (0.1, 1e-05)-differentially private."}, "guarantee"),
    ({"weights_sha256": "0" * 64}, "the weights of .* have sha256"),
    ({"config_sha256": "0" * 64}, "the settings of .* have sha256"),
    ({"expected_runs": 2.0}, "expected_runs|epsilon_rdp"),
    ({"membership": None}, "membership"),
    ({"membership": {"found_at_1_percent": 0.02, "found_at_0_1_percent": 0.002, "best_guess": 0.6,
      "mu": 0.3, "mu_gap": 0.001}}, "membership"),
])  # fmt: skip
def test_a_field_that_contradicts_the_rest_is_found_though_it_was_sealed(run, fields, said):
    path = forge(run, **fields)
    with pytest.raises(DpmixError, match=said):
        verify(path)


@pytest.mark.parametrize("field", [
    "noise_multiplier", "sampling_rate", "delta", "epsilon", "max_grad_norm", "planned_steps",
    "examples", "expected_runs",
])  # fmt: skip
def test_no_number_makes_it_compute_for_minutes_or_fail_otherwise(made, tmp_path, field):
    values = (5e-324, 0.0999, 1e300, -1, 0, 10**7, 10**400, "inf", [1])
    for place, value in enumerate(values):
        path = forge(shutil.copytree(made, tmp_path / str(place)), **{field: value})
        start = time.perf_counter()
        with pytest.raises(DpmixError) as error:
            verify(path)
        assert time.perf_counter() - start < 10 and len(str(error.value).splitlines()) == 1


def with_privacy(**changes):
    return lambda settings: settings | {"privacy": settings["privacy"] | changes}


@pytest.mark.parametrize(("settings", "fields", "said"), [
    (with_privacy(epsilon=8.0), {}, "the settings ask for epsilon 8"),
    (with_privacy(steps=None, epochs=0.2), {"sampling_rate": 5e-324}, "sampling_rate"),
    (with_privacy(steps=10**6), {"steps": 10**6, "planned_steps": 10**6, "noise_multiplier": 0.1,
     "noise_std": 0.1, "epsilon_rdp": 1e12}, "epsilon_rdp|computes up to 10000"),
    (lambda _: {}, {}, "has no settings of a run"),
])  # fmt: skip
def test_settings_of_another_run_are_found(run, settings, fields, said):
    path = forge(run, settings, **fields)
    with pytest.raises(DpmixError, match=said):
        verify(path)


@pytest.mark.parametrize(("point", "fields", "said"), [
    (1, {"epsilon": 0.1}, r"epsilon at step 1 in '.*' is 0.1, but 2\.\d+ follows"),
    (1, {"step": 3}, "does not end at step 2"),
    (None, {"curve": []}, "does not end at step 2"),
])  # fmt: skip
def test_every_epsilon_of_the_curve_is_computed_again(run, point, fields, said):
    path = run / "metrics.json"
    numbers = json.loads(path.read_text())
    (numbers if point is None else numbers["curve"][point]).update(fields)
    path.write_text(json.dumps(numbers))
    with pytest.raises(DpmixError, match=said):
        verify(run)


@pytest.mark.parametrize(("name", "old", "new", "said"), [
    ("privacy.json", '"delta": 1e-05', '"delta": 1e-06', "is not the statement in"),
    ("config.yaml", "max_grad_norm: 1.0", "max_grad_norm: 2.0", "has max_grad_norm 2.0, and"),
    ("config.yaml", "privacy:", "private:", "has no settings of a run"),
    ("report.html", "differentially", "very", "does not hold the statement's guarantee"),
    ("metrics.json", "{", '{"accuracy": 0.99, ', "'accuracy' occurs twice"),
])  # fmt: skip
def test_a_file_next_to_the_model_that_says_something_else_is_found(run, name, old, new, said):
    path = run / name
    kept = path.read_text()
    assert old in kept
    path.write_text(kept.replace(old, new, 1 if old == "{" else -1))
    with pytest.raises(DpmixError, match=said):
        verify(run)
    path.unlink()
    with pytest.raises(DpmixError, match=name):
        verify(run)


def test_an_audit_in_the_folder_is_heeded(run, capsys, unchecked):
    path, found = run / "audit.json", audit_of_run(run)
    path.write_text(json.dumps(found))
    assert "audit did not refute the claim" in shown(run, capsys)
    path.write_text(json.dumps(found | {"two_worlds": 4.5, "refuted": True}))
    with pytest.raises(DpmixError, match=r"REFUTED the guarantee"):
        verify(run)
    path.write_text(json.dumps(found | {"delta": 2e-5, "plan": found["plan"] | {"delta": 2e-5}}))
    with pytest.raises(DpmixError, match="is an audit of other settings: its delta is 2e-05"):
        shown(run, capsys)


def test_the_command_shows_the_second_accountant_and_later_checkpoints(
    run, capsys, monkeypatch, unchecked
):
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step-00000009.pt").touch()
    text = shown(run, capsys)
    assert "PRV accountant epsilon between" in text and "verdict holds" in text
    assert "of step 9: NOT covered by this epsilon: more steps than were planned" in text
    monkeypatch.setitem(sys.modules, "prv_accountant", None)
    text = shown(run, capsys)
    assert "left out: prv-accountant is not installed (pip install " in text
    assert "PLD accountant gives the same again" in text


def test_a_stopped_run_holds_with_the_epsilon_of_its_plan_first(tmp_path, capsys, unchecked):
    folder = tmp_path / "stopped"

    def stop(now):
        if now.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dpmix.fit(**SMALL, steps=6, eval_every=2, checkpoint_every=1, output=str(folder),
                  report=stop)  # fmt: skip
    found = verify(folder)
    low, high = found.prv
    stated = found.statement
    assert stated.steps == 2 and low <= stated.epsilon <= high * 1.01
    whole, at_stop = shown_epsilon(stated.epsilon), shown_epsilon(stated.epsilon_at_fixed_stop)
    text = shown(folder, capsys)
    assert f"claimed epsilon {whole} ({at_stop} only if its stop was fixed beforehand)" in text
    assert "of step 3: covered by the epsilon of all planned steps only" in text
    for name, value in (
        ("epsilon", stated.epsilon_at_fixed_stop),
        ("epsilon_at_fixed_stop", stated.epsilon_at_fixed_stop / 2),
        ("epsilon_at_fixed_stop", stated.epsilon * 2),
        ("epsilon_at_fixed_stop", None),
    ):
        forged = shutil.copytree(folder, tmp_path / "forged", dirs_exist_ok=True)
        old = shown_epsilon(getattr(stated, name))
        new = old if value is None else shown_epsilon(value)
        path = forge(forged, **{name: value, "guarantee": stated.guarantee.replace(old, new)})
        with pytest.raises(DpmixError, match=r"guarantee|epsilon"):
            verify(path)


@pytest.mark.parametrize(("rate", "sigma", "steps", "delta", "prior_releases"), [
    (0.01, 1.0, 1000, 1e-5, ()), (1.0, 13.9, 100, 1e-5, ()), (0.001, 0.6, 100, 1e-6, ()),
    (0.1, 3.0, 50, 1e-5, (20.0,)), (0.5, 100.0, 10, 1e-5, (50.0, 80.0)),
    # Little noise, few steps, and losses that begin a little below -0.1.
    (0.125, 0.4, 1, 1e-3, ()), (0.13, 0.4, 2, 1e-3, ()), (0.2, 0.5, 2, 1e-3, ()),
])  # fmt: skip
def test_two_accountants_that_share_no_code_agree(rate, sigma, steps, delta, prior_releases):
    low, high = epsilon_prv(rate, sigma, steps, delta, prior_releases)
    again = epsilon_pld(rate, sigma, steps, delta, prior_releases)
    assert low <= again <= high * 1.01
    assert (low + high) / 2 == pytest.approx(again, rel=0.01)


def test_the_best_run_of_a_private_selection_holds_with_the_cost_of_the_choice(tmp_path):
    folder = tmp_path / "selected"
    settings = SMALL | {"steps": 2, "expected_runs": 10}
    with pytest.raises(DpmixError, match="expected_runs is 10, which only dpmix sweep"):
        dpmix.fit(**settings)
    train_run(build_run(Config.load(None, **settings, output=str(folder))))
    found = verify(folder)
    assert found.statement.accountant == "RDP"
    assert 2.9 < found.statement.epsilon <= 3 and found.prv[1] < 2
    assert "best of a random number of runs, 10 on average" in found.statement.guarantee
    for number, (fields, said) in enumerate([
        ({"expected_runs": None}, "expected_runs"),
        ({"expected_runs": 2.0}, "guarantee|expected_runs"),
        ({"accountant": "PLD"}, "accountant"),
        ({"epsilon": 1.5}, "epsilon"),
        ({"epsilon_rdp": 1.5}, "epsilon_rdp"),
    ]):  # fmt: skip
        path = forge(shutil.copytree(folder, tmp_path / str(number)), **fields)
        with pytest.raises(DpmixError, match=said):
            verify(path)
