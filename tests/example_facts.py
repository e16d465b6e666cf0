"""The public facts of a run that never was, for tests of its pages."""

import math
from functools import cache

import numpy as np

from dpmix.files import to_json
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.facts import RunFacts
from dpmix.reports.guarantee import privacy_statement, public_inputs
from dpmix.reports.metrics import metrics
from dpmix.reports.statement import statement_text
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder
from dpmix.runs.settings import InputConfig
from dpmix.training.evaluate import Evaluation
from dpmix.training.loop import History

DIGEST = "0123456789abcdef" * 4


def evaluation(names=("cat", "dog", "eel"), images=20, errors=0):
    """Of a model that takes a class for its neighbours in the list, if it errs."""
    rng = np.random.default_rng(errors)
    confusion = {}
    for place, name in enumerate(names):
        right = int(rng.integers(images // 2, images))
        row = {name: right, names[(place + 1) % len(names)]: images - right}
        confusion[name] = {other: row[other] for other in names if row.get(other)}
    accuracy = {name: confusion[name].get(name, 0) / images for name in names}
    whole = sum(accuracy.values()) / len(names)
    bins = [{"images": images * len(names), "confidence": whole / 2, "accuracy": whole}]
    return Evaluation(
        "accuracy", whole, accuracy, whole, dict.fromkeys(names, images), 0.6, images * len(names),
        whole / 2, confusion, bins,
    )  # fmt: skip


@cache
def calibrated(epsilon, steps):
    return PrivacyPlan.calibrate(
        n=100, expected_batch_size=50.0, epsilon=epsilon, delta=1e-4, steps=steps
    )


def facts(names=("cat", "dog", "eel"), *, epsilon=2.0, steps=5, done=None, errors=0, pool=None,
          run_id="r", weights=DIGEST, resumed_at=(), copies=1, shape=(3, 8, 8),
          **settings):  # fmt: skip
    """Facts of a run of 100 images; `settings` are those of `Config`."""
    plan = calibrated(epsilon, steps)
    config = Config.load(
        **{"model": "cnn-small", "method": "mix-self", "k_base": 16, "k_self": 18,
           "crop_padding": 4, "flip": True,
           "epsilon": epsilon, "delta": 1e-4, "expected_batch_size": 50, "steps": steps,
           "learning_rate": 1.0, "normalization": "half"} | settings
    ).model_copy(
        update={"input": InputConfig(image_shape=shape, class_names=tuple(names))}
    )  # fmt: skip
    given, done = config.model_dump(mode="json"), done or steps
    points = [{"step": done, "epsilon": plan.epsilon_after(done), "score": 0.5}]
    history = History(points, evaluation(names, errors=errors))
    statement = privacy_statement(
        given, plan, public_inputs(given, pool, None), steps=done, weights_sha256=weights,
        config_sha256=DIGEST[::-1], run_id=run_id, resumed_at=resumed_at, copies=copies,
    )  # fmt: skip
    return RunFacts(given, statement, metrics(given, plan, history, 99, "examplewise"))


def write_run(root, *arguments, **settings):
    """Write the files that such facts are read from; return the folder."""
    run = facts(*arguments, **settings)
    folder = RunFolder(root)
    root.mkdir(parents=True)
    folder.privacy.write_text(statement_text(run.statement))
    folder.config.write_text(Config.model_validate(run.settings).to_yaml())
    folder.metrics.write_text(to_json(run.metrics.model_dump()))
    return root


def not_private(**settings):
    """The same without privacy."""
    return facts(epsilon=math.inf, **settings)
