"""Private training inside Lightning: its Trainer, callbacks and checkpoints, and private steps.

    pip install 'dp-mix-images[examples]'
    python examples/lightning_digits.py

Lightning's loader yields step numbers and no image: a private step draws its own Poisson batch.
The small network gets about 89 % of the test digits right (one run, two CPU cores, half a minute).
"""

import argparse
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import dpmix
from dpmix.data import load_splits, normalization


class PrivateClassifier(lightning.LightningModule):
    """Any network; only `training_step` differs from what you have."""

    def __init__(self, network: nn.Module, train_set: Dataset, plan: dpmix.PrivacyPlan) -> None:
        super().__init__()
        self.network, self.train_set, self.plan = network, train_set, plan
        self.constants = normalization("half", 1)
        self.saved_steps: dict[str, Any] | None = None
        # Lightning must not call backward() and step() itself.
        self.automatic_optimization = False

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.network.parameters(), lr=1.0, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.plan.steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(self.plan.steps), batch_size=None)

    def on_train_start(self) -> None:
        # Here, because the network is on its device and holds a checkpoint's weights.
        self.private = dpmix.make_private(
            self.network,
            self.optimizers(),
            self.train_set,
            plan=self.plan,
            views=dpmix.ViewSpec("mix-self", k_base=4, k_self=4, crop_padding=1, flip=False),
        )
        if self.saved_steps is not None:
            self.private.resume(self.saved_steps)

    def training_step(self, _: int) -> None:
        self.private.step()  # what it returns is private: log none of it
        self.lr_schedulers().step()

    def validation_step(self, batch: list[Tensor]) -> None:
        images, labels = batch
        right = self.network(self.constants(images)).argmax(dim=1) == labels
        self.log("test_accuracy", right.float().mean(), prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["private_steps"] = self.private.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.saved_steps = checkpoint["private_steps"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument(
        "--validate-every", type=int, default=10, help="steps between validations, which also save"
    )
    parser.add_argument("--folder", default="runs/lightning")
    parser.add_argument("--resume", help="a checkpoint of a stopped run, with the same settings")
    settings = parser.parse_args()

    digits = load_splits("mnist5k")
    train_set = TensorDataset(
        digits.train.pixels[: settings.images], digits.train.labels[: settings.images]
    )
    plan = dpmix.PrivacyPlan.calibrate(
        n=len(train_set),
        expected_batch_size=len(train_set) / 10,
        steps=settings.steps,
        epsilon=3,
        delta=1e-5,
    )
    network = nn.Sequential(
        nn.Conv2d(1, 16, 8, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2, stride=1),
        nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.MaxPool2d(2, stride=1),
        nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    module = PrivateClassifier(network, train_set, plan)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="auto",
        devices=1,
        callbacks=[ModelCheckpoint(settings.folder, save_last=True, save_on_train_epoch_end=False)],
        val_check_interval=settings.validate_every,
        logger=False,
    )
    test_loader = DataLoader(TensorDataset(digits.test.pixels, digits.test.labels), batch_size=250)
    trainer.fit(module, val_dataloaders=test_loader, ckpt_path=settings.resume)
    trainer.validate(module, test_loader)
    done = module.private.steps_done
    # Of the whole plan: it holds wherever the trainer stops, early stopping included.
    print(f"epsilon {plan.epsilon:.3f}, delta {plan.delta}, after {done} steps of {plan.steps}")


if __name__ == "__main__":
    main()
