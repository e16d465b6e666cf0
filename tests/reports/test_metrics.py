"""The metrics file: what was measured, and on what."""

import math

import torch

from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.metrics import metrics
from dpmix.runs.config import Config
from dpmix.training.evaluate import Evaluation
from dpmix.training.loop import History


def test_what_was_measured_on_validation_images_is_called_so():
    plan = PrivacyPlan.calibrate(n=10, expected_batch_size=5, steps=2, epsilon=math.inf, delta=1e-5)
    history = History([], Evaluation(0.5, {"a": 0.75, "b": 0.25}, 1.5, 8, 0.125, {}, []))
    said = metrics(Config.load(validation_fraction=0.2), plan, history, 99, "examplewise")
    assert said["judged_on"] == "validation"


def test_it_holds_the_latest_evaluation_its_worst_class_and_the_curve():
    plan = PrivacyPlan.calibrate(n=10, expected_batch_size=5, steps=2, epsilon=math.inf, delta=1e-5)
    points = [{"step": 2, "epsilon": math.inf, "accuracy": 0.5}]
    confusion = {"a": {"a": 3, "b": 1}, "b": {"a": 3, "b": 1}}
    bins = [{"images": 8, "confidence": 0.625, "accuracy": 0.5}]
    found = Evaluation(0.5, {"a": 0.75, "b": 0.25}, 1.5, 8, 0.125, confusion, bins)
    history = History(points, found)
    said = metrics(
        Config.load(seed=3, method="none"), plan, history, parameters=99, engine="examplewise"
    )
    assert (said["accuracy"], said["evaluation_loss"], said["images"]) == (0.5, 1.5, 8)
    assert said["worst_class"] == {"name": "b", "accuracy": 0.25}
    assert said["calibration_error"] == 0.125
    assert (said["confusion"], said["reliability"]) == (confusion, bins)
    assert said["curve"] == points
    assert (said["private"], said["method"], said["seed"]) == (False, "none", 3)
    assert said["parameters"] == 99
    assert "seconds" not in said, "how long steps take tells how many examples there are"
    assert said["engine"] == "examplewise"
    assert f"{torch.get_num_threads()} threads" in said["machine"]
