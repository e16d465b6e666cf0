"""The metrics file: what was measured, and on what."""

import math

from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.metrics import metrics
from dpmix.runs.config import Config
from dpmix.training.evaluate import Evaluation
from dpmix.training.loop import History


def test_it_holds_the_latest_evaluation_its_worst_class_and_the_curve():
    plan = PrivacyPlan.calibrate(n=10, expected_batch_size=5, steps=2, epsilon=math.inf, delta=1e-5)
    points = [{"step": 2, "epsilon": math.inf, "score": 0.5}]
    confusion = {"a": {"a": 3, "b": 1}, "b": {"a": 3, "b": 1}}
    bins = [{"images": 8, "confidence": 0.625, "accuracy": 0.5}]
    scores, images = {"a": 0.75, "b": 0.25}, {"a": 4, "b": 4}
    evaluation = Evaluation(
        "accuracy", 0.5, scores, 0.5, images, math.nan, 8, 0.125, confusion, bins
    )
    settings = Config.load(
        model="cnn-small", seed=3, method="none", validation_fraction=0.2
    ).model_dump(mode="json")
    told = metrics(settings, plan, History(points, evaluation), 99, "examplewise").model_dump()
    assert told | {
        "accuracy": 0.5, "evaluation_loss": "nan", "images": 8, "calibration_error": 0.125,
        "worst_class": {"name": "b", "score": 0.25}, "class_images": images, "confusion": confusion,
        "reliability": bins, "curve": [{"step": 2, "epsilon": "inf", "score": 0.5}],
        "private": False, "method": "none", "seed": 3, "parameters": 99, "engine": "examplewise",
        "judged_on": "validation",
    } == told  # fmt: skip
    assert "seconds" not in told, "how long steps take reveals how many examples there are"
