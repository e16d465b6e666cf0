"""Training on the public pool before anything private is read: the control `pretrain`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from dpmix.clipping.types import soft_cross_entropy, trainable
from dpmix.models.finetune import train_mode
from dpmix.pool.pool import PublicPool
from dpmix.views.builder import ViewBuilder

BATCH = 128
LEARNING_RATE = 3e-3


@dataclass(frozen=True, eq=False)
class Pretraining:
    """Ordinary training on a pool: AdamW, one cycle of the rate, one augmented view per image.

    Attributes:
        pool: the public images and their labels.
        views: how one image becomes one view (`self-aug` with k_base 1).
        epochs: number of passes over the pool.
        rng: generator of the order and of the views.
    """

    pool: PublicPool
    views: ViewBuilder
    epochs: int
    rng: np.random.Generator

    @property
    def steps(self) -> int:
        """Number of steps in all epochs together."""
        return self.epochs * -(-len(self.pool) // BATCH)

    def run(self, model: nn.Module, report: Callable[[int, int], None]) -> None:
        """Train `model` in place; call `report` with (steps done, steps in all)."""
        train_mode(model)
        parameters = list(trainable(model).values())
        device, done = parameters[0].device, 0
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
        schedule = OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=self.steps)
        for _ in range(self.epochs):
            order = torch.from_numpy(self.rng.permutation(len(self.pool)))
            for index in order.split(BATCH):
                images, labels = (part.to(device) for part in self.pool.take(index))
                made = self.views.build(images, labels, self.views.draw_views(len(index), self.rng))
                scores = model(made.views.flatten(0, 1))
                soft_cross_entropy(scores, made.labels.flatten(0, 1)).mean().backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
                done += 1
                report(done, self.steps)
