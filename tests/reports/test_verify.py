"""`dpmix verify`: a run as it was written holds; whatever is changed in it is found."""

import json
import math
import shutil
import time
from hashlib import sha256

import jsonschema
import pytest
import yaml

import dpmix
from dpmix.cli.app import app
from dpmix.cli.reports import report as write_report
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_pld
from dpmix.reports.prv import epsilon_prv
from dpmix.reports.statement import SCHEMA, schema_text, seal, shown_epsilon
from dpmix.reports.verify import verify
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.runs.fit import train_run as run_of
from example_audit import audit_of_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify") / "run"
    dpmix.fit(data="mnist5k", epsilon=3, steps=2, expected_batch_size=400, k_base=2, k_self=2,
              device="cpu", output=str(folder))  # fmt: skip
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def change(run, **fields):
    """Change fields as a forger would, who knows how to seal a statement."""
    path = run / "privacy.json"
    said = json.loads(path.read_text()) | fields
    said.pop("sha256")
    path.write_text(json.dumps(seal(said)))


def test_a_run_as_it_was_written_holds(run):
    found = verify(run)
    low, estimate, high = found.prv
    assert low <= estimate <= high and low <= found.statement.epsilon <= high * 1.01


def test_the_schema_in_the_package_is_that_of_the_model_and_a_run_obeys_it(run):
    assert SCHEMA.read_text() == schema_text()
    said = json.loads((run / "privacy.json").read_text())
    jsonschema.validate(said, json.loads(SCHEMA.read_text()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(said | {"noise": 1}, json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize(("name", "said"), [
    ("model.safetensors", "'model.safetensors' has sha256"),
    ("config.yaml", "'config.yaml' has sha256"),
    ("privacy.json", "was changed since it was written|is not JSON|is no privacy statement"),
])  # fmt: skip
def test_one_changed_byte_is_found(run, name, said):
    path = run / name
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), max(1, len(content) // 23)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(DpmixError, match=said):
            verify(run)


@pytest.mark.parametrize(("fields", "said"), [
    ({"epsilon": 1.0}, "guarantee"),
    ({"epsilon_rdp": 1.0}, "epsilon_rdp is 1"),
    ({"epsilon_rdp": "inf"}, "epsilon_rdp is inf"),
    ({"noise_multiplier": 2.0}, "noise_std"),
    ({"noise_multiplier": 2.0, "noise_std": 2.0}, "the settings ask for epsilon 3"),
    ({"noise_multiplier": 0.5, "noise_std": 0.5}, "epsilon_rdp is"),
    ({"epsilon": 1e300}, "guarantee"),
    ({"steps": 10**9, "planned_steps": 10**9}, "steps"),
    ({"epsilon_rdp": "nan"}, "epsilon_rdp"),
    ({"assumptions": []}, "assumptions"),
    ({"mechanism": "anything"}, "mechanism"),
    ({"resumed_at": [-5]}, "assumptions|resumed_at"),
    ({"processes": 9}, "assumptions"),
    ({"spent_before": [50.0]}, "guarantee"),
    ({"examples": None}, "examples|assumptions"),
    ({"examples": 400_000, "sampling_rate": 400 / 400_000}, "the settings ask for epsilon"),
    ({"denominator": 1.0, "sampling_rate": 1 / 4000}, "denominator"),
    ({"planned_steps": 1, "steps": 1}, "planned_steps"),
    ({"steps": 1, "complete": False}, "epsilon_at_fixed_stop"),
    ({"epsilon_at_fixed_stop": 1.0}, "epsilon_at_fixed_stop"),
    ({"steps": 3}, "complete|steps"),
    ({"planned_steps": 9}, "complete"),
    ({"sampling_rate": 0.5}, "sampling_rate"),
    ({"denominator": 4.0}, "sampling_rate"),
    ({"delta": 1e-6}, "delta"),
    ({"method": "none"}, "method"),
    ({"method": "microbatch-mixup"}, "method"),
    ({"max_grad_norm": 0.5}, "max_grad_norm"),
    ({"sensitivity": 0.5}, "sensitivity"),
    ({"seeded": True}, "seeded"),
    ({"guarantee": "The model is (0.1, 1e-05)-differentially private."}, "guarantee"),
    ({"epsilon": "inf"}, "guarantee"),
    ({"private": "yes"}, "private"),
    ({"examples": -4}, "examples"),
    ({"weights_sha256": "0" * 64}, "model.safetensors"),
    ({"extra": 1}, "extra"),
])  # fmt: skip
def test_a_field_that_contradicts_the_rest_is_found_though_it_was_sealed_anew(run, fields, said):
    change(run, **fields)
    with pytest.raises(DpmixError, match=said):
        verify(run)


@pytest.mark.parametrize("sigma", [1e-308, 1e-6, 1e-3, 0.02, 0.0999, 1e8, 1e300, -1, "nan", "inf"])
@pytest.mark.parametrize("field", ["noise_multiplier", "spent_before"])
def test_noise_that_no_accountant_counts_is_refused_at_once(run, field, sigma):
    change(run, **{field: sigma if field == "noise_multiplier" else [sigma]})
    start = time.perf_counter()
    with pytest.raises(DpmixError, match=f"{field}.*expected the file as it was written") as error:
        verify(run)
    assert time.perf_counter() - start < 5 and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("field", [
    "noise_multiplier", "noise_std", "sampling_rate", "delta", "denominator", "epsilon",
    "epsilon_rdp", "max_grad_norm", "sensitivity", "steps", "planned_steps", "examples",
    "processes", "expected_runs",
])  # fmt: skip
def test_no_number_makes_it_compute_for_minutes_or_fail_otherwise(run, field):
    for value in (5e-324, 1e-12, 1e300, -1, 0, 10**7, 10**9, 10**400, "inf", "x", [1], True):
        change(run, **{field: value})
        start = time.perf_counter()
        with pytest.raises(DpmixError) as error:
            verify(run)
        assert time.perf_counter() - start < 10 and len(str(error.value).splitlines()) == 1


def test_a_rate_near_0_does_not_fail_otherwise_in_a_run_of_epochs(run):
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["privacy"] |= {"steps": None, "epochs": 0.2}
    text = yaml.safe_dump(settings, sort_keys=False)
    (run / "config.yaml").write_text(text)
    change(run, config_sha256=sha256(text.encode()).hexdigest(), sampling_rate=5e-324)
    with pytest.raises(DpmixError, match="sampling_rate"):
        verify(run)


def test_a_run_of_an_epsilon_that_promises_nothing_is_refused_before_it_is_computed(run):
    # All of it agrees, as a forger would make it.
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["privacy"] |= {"steps": 10**6}
    text = yaml.safe_dump(settings, sort_keys=False)
    (run / "config.yaml").write_text(text)
    change(
        run, config_sha256=sha256(text.encode()).hexdigest(), steps=10**6, planned_steps=10**6,
        noise_multiplier=0.1, noise_std=0.1, epsilon_rdp=1e12,
    )  # fmt: skip
    with pytest.raises(DpmixError, match="verify computes up to 10000: do not rely"):
        verify(run)


@pytest.mark.parametrize(("point", "fields", "said"), [
    (0, {"epsilon": 0.1}, r"epsilon at step 1 in 'metrics.json' is 0.1, but 2\.\d+ follows"),
    (0, {"epsilon": 9.0}, r"epsilon at step 1 in 'metrics.json' is 9, but 2\.\d+ follows"),
    (0, {"epsilon": "inf"}, "epsilon at step 1 in 'metrics.json' is inf"),
    (1, {"epsilon": 2.9}, "epsilon at step 2 in 'metrics.json' is 2.9"),
    (1, {"step": 1}, "does not go up to step 2"),
    (0, {"step": 2}, "does not go up to step 2"),
    (1, {"step": 3}, "does not go up to step 2"),
])  # fmt: skip
def test_every_epsilon_of_the_curve_is_computed_again(run, point, fields, said):
    path = run / "metrics.json"
    numbers = json.loads(path.read_text())
    assert [one["step"] for one in numbers["curve"]] == [1, 2]
    numbers["curve"][point] |= fields
    path.write_text(json.dumps(numbers))
    write_report(run)  # as a forger would, so that the page agrees
    with pytest.raises(DpmixError, match=said):
        verify(run)


def test_a_curve_that_was_emptied_is_found(run):
    path = run / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"curve": []}))
    with pytest.raises(DpmixError, match="does not go up to step 2"):
        verify(run)


@pytest.mark.parametrize("name", ["privacy.json", "model.safetensors", "config.yaml",
                                  "MODEL_CARD.md", "metrics.json", "report.html"])  # fmt: skip
def test_what_is_missing_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(DpmixError, match=name):
        verify(run)


@pytest.mark.parametrize(("old", "new", "said"), [
    ("differentially", "very", "does not hold the statement's guarantee"),
    ("| clipping norm C | 1 |", "| clipping norm C | 0.1 |", "is not the card of these settings"),
    ("## Accuracy by class", "## Accuracy by class, roughly", "is not the card of these settings"),
])  # fmt: skip
def test_a_card_that_says_something_else_is_found(run, old, new, said):
    card = run / "MODEL_CARD.md"
    assert old in card.read_text()
    card.write_text(card.read_text().replace(old, new))
    with pytest.raises(DpmixError, match=said):
        verify(run)


def test_a_page_without_the_guarantee_is_found(run):
    page = run / "report.html"
    page.write_text(page.read_text().replace("differentially", "very"))
    with pytest.raises(DpmixError, match="does not hold the statement's guarantee"):
        verify(run)


def test_what_was_not_compared_is_not_said_to_fit(run, monkeypatch, capsys, unchecked):
    here = {"dpmix": "9", "numpy": "9", "dp-accounting": "9"}
    monkeypatch.setattr("dpmix.reports.verify.versions", lambda: here)
    app(["verify", str(run)], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "metrics and card were NOT compared: dpmix 0.1.0 wrote them" in shown
    assert "card fit it" not in shown


@pytest.mark.parametrize(("name", "first"), [
    ("privacy.json", '"epsilon": 0.1'), ("metrics.json", '"accuracy": 0.99'),
])  # fmt: skip
def test_a_number_that_is_there_twice_is_found(run, name, first):
    path = run / name
    path.write_text(path.read_text().replace("{", "{" + first + ", ", 1))
    with pytest.raises(DpmixError, match=rf"{name}' says '\w+' twice"):
        verify(run)


def test_an_audit_beside_the_run_is_heeded(run, capsys, unchecked):
    path = run / "audit.json"
    said = audit_of_run(run)
    path.write_text(json.dumps(said))
    assert verify(run).audit_shown is False
    app(["verify", str(run)], standalone_mode=False)
    assert "not on the page yet: dpmix report" in " ".join(capsys.readouterr().out.split())
    write_report(run)
    assert verify(run).audit_shown is True
    path.write_text(json.dumps(said | {"two_worlds": 4.5, "refuted": True}))
    with pytest.raises(DpmixError, match=r"REFUTED: the attack shows that epsilon is at least 4.5"):
        verify(run)
    path.write_text(json.dumps(said | {"delta": 2e-5, "plan": said["plan"] | {"delta": 2e-5}}))
    with pytest.raises(DpmixError, match="is an audit of other settings: its delta is 2e-05"):
        verify(run)


@pytest.mark.parametrize("change", [
    lambda numbers: numbers | {"accuracy": 0.99},
    lambda numbers: {name: value for name, value in numbers.items() if name != "accuracy"},
    lambda numbers: numbers | {"class_accuracy": 3},
    lambda numbers: "cut off",
])  # fmt: skip
def test_metrics_that_the_card_does_not_show_are_found(run, change):
    path = run / "metrics.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DpmixError, match=r"MODEL_CARD.md|metrics.json"):
        verify(run)


def test_checkpoints_of_later_steps_are_told(run, capsys, unchecked):
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step-00000009.pt").touch()
    app(["verify", str(run)], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "NOT covered by this epsilon: of step 9, more than were planned" in shown


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """Stopped after its third step of six, with the model of its second."""
    folder = tmp_path_factory.mktemp("stopped") / "run"

    def stop(now):
        if now.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dpmix.fit(data="mnist5k", epsilon=3, steps=6, eval_every=2, checkpoint_every=1,
                  expected_batch_size=400, device="cpu", output=str(folder), k_base=2,
                  report=stop)  # fmt: skip
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    return shutil.copytree(stopped_once, tmp_path / "stopped")


def test_a_stopped_run_holds_with_the_epsilon_of_its_plan_first(stopped, capsys, unchecked):
    found = verify(stopped)
    low, _, high = found.prv
    said = found.statement
    assert said.steps == 2 and low <= said.epsilon <= high * 1.01
    app(["verify", str(stopped)], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    whole, at_stop = shown_epsilon(said.epsilon), shown_epsilon(said.epsilon_at_fixed_stop)
    claim = f"claimed epsilon {whole} ({at_stop} only if its stop was fixed beforehand), delta"
    assert claim in shown and "6 planned steps, 2 of them taken" in shown
    assert "of step 3: covered only by the epsilon of all planned steps" in shown
    card = (stopped / "MODEL_CARD.md").read_text()
    assert f"{whole} ({at_stop} only if its stop was fixed beforehand) |" in card
    assert card.index(whole) < card.index(at_stop)


@pytest.mark.parametrize(("name", "forged", "found"), [
    ("epsilon", lambda said: said["epsilon_at_fixed_stop"], "the statement's epsilon is"),
    ("epsilon_at_fixed_stop", lambda said: said["epsilon_at_fixed_stop"] / 2,
     "the statement's epsilon_at_fixed_stop is"),
    ("epsilon_at_fixed_stop", lambda said: said["epsilon"] * 2, "by the PRV accountant"),
    ("epsilon_at_fixed_stop", lambda said: None, "epsilon_at_fixed_stop is None"),
])  # fmt: skip
def test_neither_epsilon_of_a_stopped_run_can_be_another(stopped, name, forged, found):
    said = json.loads((stopped / "privacy.json").read_text())
    value = forged(said)
    if value is not None:
        old, new = shown_epsilon(said[name]), shown_epsilon(value)
        said["guarantee"] = said["guarantee"].replace(old, new)
    change(stopped, **{name: value, "guarantee": said["guarantee"]})
    with pytest.raises(DpmixError, match=found):
        verify(stopped)


def test_a_run_without_privacy_is_not_verified(tmp_path):
    dpmix.fit(data="mnist5k", epsilon=math.inf, steps=1, expected_batch_size=8, device="cpu",
              output=str(tmp_path / "run"))  # fmt: skip
    with pytest.raises(DpmixError, match="NOT PRIVATE"):
        verify(tmp_path / "run")


def test_the_command_shows_both_accountants_and_the_verdict(run, capsys, unchecked):
    app(["verify", str(run)], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "PRV accountant epsilon between" in shown and "verdict holds" in shown


@pytest.mark.parametrize(("rate", "sigma", "steps", "delta", "spent"), [
    (0.01, 1.0, 1000, 1e-5, ()), (1.0, 13.9, 100, 1e-5, ()), (0.001, 0.6, 100, 1e-6, ()),
    (0.1, 3.0, 50, 1e-5, (20.0,)), (0.5, 100.0, 10, 1e-5, (50.0, 80.0)),
    # Little noise, few steps, and losses that begin a little below -0.1.
    (0.125, 0.4, 1, 1e-3, ()), (0.13, 0.4, 2, 1e-3, ()), (0.2, 0.5, 2, 1e-3, ()),
])  # fmt: skip
def test_two_accountants_that_share_no_code_agree(rate, sigma, steps, delta, spent):
    low, estimate, high = epsilon_prv(rate, sigma, steps, delta, spent)
    assert low <= epsilon_pld(rate, sigma, steps, delta, spent) <= high * 1.01
    assert estimate == pytest.approx(epsilon_pld(rate, sigma, steps, delta, spent), rel=0.01)


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selected") / "run"
    settings = {"data": "mnist5k", "epsilon": 3, "steps": 2, "expected_batch_size": 400,
                "k_base": 2, "k_self": 2, "device": "cpu", "expected_runs": 10}  # fmt: skip
    with pytest.raises(DpmixError, match="expected_runs is 10, which only dpmix sweep"):
        dpmix.fit(**settings)
    run_of(build_run(Config.load(None, **settings, output=str(folder))))
    return folder


def test_the_best_run_of_a_private_selection_holds_with_the_cost_of_the_choice(selected):
    found = verify(selected)
    assert found.statement.accountant.name == "RDP"
    assert 2.9 < found.statement.epsilon <= 3 and found.prv[2] < 2
    assert "best of a random number of runs, 10 on average" in found.statement.guarantee


@pytest.mark.parametrize(("fields", "said"), [
    ({"expected_runs": None}, "expected_runs"),
    ({"expected_runs": 2.0}, "expected_runs"),
    ({"expected_runs": 0.5}, "expected_runs"),
    ({"accountant": {"name": "PLD", "library": "dp-accounting", "beside": "RDP"}}, "accountant"),
    ({"epsilon": 1.5}, "guarantee"),
    ({"epsilon_rdp": 1.5}, "epsilon_rdp"),
])  # fmt: skip
def test_a_selection_that_is_understated_is_found(selected, tmp_path, fields, said):
    run = shutil.copytree(selected, tmp_path / "copy")
    change(run, **fields)
    with pytest.raises(DpmixError, match=said):
        verify(run)
