"""Images with several labels each, subgroups of them, and the facts of a run judged on them."""

import numpy as np
import torch

from dpmix.data.subgroups import Subgroups
from dpmix.reports.facts import RunFacts
from dpmix.reports.metrics import metrics
from dpmix.training.evaluate import InFull, evaluate_logits
from dpmix.training.loop import History
from example_facts import calibrated, facts

LABELS = ("Cardiomegaly", "Effusion", "Pneumonia")


class Labelled:
    """A source of blank images with given labels, as evaluation sees it."""

    image_shape = (1, 2, 2)

    def __init__(self, labels, class_names, persons=None):
        self.labels, self.class_names, self.persons = labels, tuple(class_names), persons

    def __len__(self):
        return len(self.labels)

    def images(self, indices):
        return torch.zeros(len(indices), *self.image_shape, dtype=torch.uint8)


def several(images=120, unknown=0.1, seed=0):
    """Labels of which a tenth is unknown, and logits that know something of them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (images, len(LABELS)))
    scores = torch.from_numpy(rng.normal(size=labels.shape) + labels).float()
    labels[rng.random(labels.shape) < unknown] = -1
    return Labelled(torch.from_numpy(labels), LABELS), scores


def groups(images, *values, column="sex"):
    """Subgroups whose values take turns."""
    return Subgroups({column: tuple(values[place % len(values)] for place in range(images))}, 0)


def judged(source, scores, listed=None):
    """Facts of a run whose thresholds were chosen on `source`."""
    found = evaluate_logits(scores, source, InFull(chosen_here=True, groups=listed))
    run = facts(source.class_names)
    points = [{"step": step, "epsilon": 2.0, "score": found.score} for step in (0, 5)]
    measured = metrics(run.settings, calibrated(2.0, 5), History(points, found), 99, "linear")
    return RunFacts(run.settings, run.statement, measured)
