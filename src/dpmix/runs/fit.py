"""`fit`: settings in, a trained private model and its folder out."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from dpmix.data.image import Progress as Counted
from dpmix.errors import DpmixError
from dpmix.files import write_text
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.summary import divergence
from dpmix.runs.build import Run, build_run
from dpmix.runs.checkpoint import Checkpoint
from dpmix.runs.config import Config
from dpmix.runs.defaults import choose_model, reads_pool
from dpmix.runs.record import RunRecord
from dpmix.runs.resume import rebuild_run
from dpmix.runs.settings import DataConfig
from dpmix.training.distributed import Ranks
from dpmix.training.ema import Ema
from dpmix.training.evaluate import Evaluation
from dpmix.training.loop import History, Progress, train
from dpmix.training.trainer import PrivateTrainer

EVALUATIONS = 10

SMOKE_SIZE, SMOKE_SCRATCH_SIZE = 32, 16  # side of the images in pixels


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        model: with the averaged weights, in eval mode.
        plan: the guarantee that ran.
        evaluation: of `model` on the test split, or on the validation images.
        start_score: on the same images, before the first private step (epsilon 0).
        folder: the run folder.
        config: the settings, with every default filled in.
    """

    model: nn.Module
    plan: PrivacyPlan
    evaluation: Evaluation
    start_score: float
    folder: Path
    config: Config


def fit(
    recipe: str | Path | None = None,
    *,
    resume: Path | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    decoding: Counted | None = None,
    **settings: Any,
) -> RunResult:
    """Train a private image classifier and write its run folder.

    Args:
        recipe: the path of a YAML file of settings, or a name of `dpmix recipes list`.
        resume: the folder of a stopped run to resume, instead of a recipe.
        report: called after each step.
        decoding: called with (images decoded, images in all).
        **settings: single settings by name, such as `data="mnist5k", epsilon=3`; they override the
            recipe.

    Raises:
        DpmixError: any setting or data that can't be meant; nothing has been written then.
    """
    if resume is not None:
        if recipe is not None:
            raise DpmixError("a recipe and a run to resume were both given; give one")
        run, checkpoint = rebuild_run(resume, decoding, **settings)
    else:
        run = build_run(Config.load(recipe, **settings).require_no_selection(), decoding)
        checkpoint = None
    result = train_run(run, report, checkpoint=checkpoint)
    if result.evaluation.diverged:
        warnings.warn(divergence(result.evaluation.loss, run.splits.judged_on), stacklevel=2)
    return result


def train_run(
    run: Run,
    report: Callable[[Progress], None] = lambda _: None,
    public: Counted = lambda done, total: None,
    embedding: Counted = lambda done, total: None,
    checkpoint: Checkpoint | None = None,
) -> RunResult:
    """Train a run and write its folder, as `fit` does; of several processes rank 0 alone writes.

    `public` is called with (batches done, batches in all) while the run reads its pool, `embedding`
    with (views done, views in all), and `checkpoint` is what `rebuild_run` returned with `run`.
    """
    # It checks the model: before anything is embedded or written.
    trainer = run.trainer()
    ranks, record = run.ranks, RunRecord(run, checkpoint)
    ranks.require_equal("run", run.fixed())
    ranks.require_equal("checkpoint", checkpoint and (checkpoint.run_id, checkpoint.step))
    with record.open() if ranks.is_main else nullcontext():
        if run.plan.steps:
            run.inputs.embed(run.examples, embedding)
        ema, history = _start(run, trainer, checkpoint, public)
        train(
            trainer,
            schedule=run.schedule,
            ema=ema,
            evaluate=run.inputs.judge(embedding, run.in_full) if ranks.is_main else None,
            eval_every=run.config.run.eval_every or max(1, run.plan.steps // EVALUATIONS),
            history=history,
            log=record if ranks.is_main else None,
            report=report,
        )
        last, points = ranks.broadcast_object((history.last, history.points))
    run.model.load_state_dict(ema.weights())
    return RunResult(run.model.eval(), run.plan, last, points[0]["score"], run.folder, run.config)


def _start(
    run: Run, trainer: PrivateTrainer, checkpoint: Checkpoint | None, public: Counted
) -> tuple[Ema, History]:
    """Average and evaluations before the first step, or as the checkpoint has them."""
    begun = checkpoint is not None and checkpoint.step > 0
    if not begun:
        if run.ranks.is_main:
            run.start(public)
            if run.pretraining is not None:
                run.pretraining.run(run.model, public)
        trainer.broadcast_weights()
    ema = Ema(run.model, run.config.optimizer.ema_decay)
    if checkpoint is None or not begun:
        return ema, History()
    ema.restore(checkpoint.ema)
    trainer.resume({"plan": asdict(checkpoint.plan), "steps_done": checkpoint.step})
    return ema, checkpoint.history


@contextmanager
def smoke_run(config: Config, ranks: Ranks) -> Iterator[Run]:
    """A run of two steps on two images of noise, with random weights; nothing of it is kept.

    Network, trained part, method, numbers of views and optimiser are those of the settings.
    """
    with tempfile.TemporaryDirectory() as temporary:
        config, folder = choose_model(config), Path(temporary)
        backbone, pooled = config.model.backbone is not None, reads_pool(config)
        _write_noise(folder, SMOKE_SIZE if backbone else SMOKE_SCRATCH_SIZE)
        changes: dict[str, dict[str, Any]] = {
            "views": {"pool": str(folder / "pool") if pooled else None, "pool_labels": None,
                      "pool_unmapped": "refuse", "pretrain_epochs": 1, "images_per_person": None},
            "model": {"backbone_weights": None, "backbone_size": SMOKE_SIZE if backbone else None,
                      "head_steps": None},
            "features": {"cache_dir": str(folder / "features")},
            "privacy": {"steps": 2, "epochs": None, "expected_batch_size": 1.0,
                        "sampling_rate": None, "denominator": None, "prior_releases": (),
                        "unit": None, "balance": None, "class_prevalence": None, "spend": None},
            "run": {"output": str(folder / "run"), "eval_every": None, "tensorboard": False,
                    "wandb": None},
        }  # fmt: skip
        changed = {
            name: getattr(config, name).model_copy(update=values)
            for name, values in changes.items()
        }
        several = config.data.task == "multi-label"
        data = DataConfig(
            data=str(folder / "data"),
            channels=config.data.channels,
            normalization=None if backbone else config.data.normalization,
            task=config.data.task,
            labels=str(folder / "labels.csv") if several else None,
        )
        config = config.model_copy(update=changed | {"data": data})
        yield build_run(config, trial=True, ranks=ranks)


def _write_noise(folder: Path, size: int) -> None:
    """One image of noise for each of two classes, for training, test and pool; and their labels."""
    rng = np.random.default_rng()
    for name in ("data/train", "data/test", "pool"):
        for label in ("a", "b"):
            (folder / name / label).mkdir(parents=True)
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / label / "noise.png")
    rows = [f"{side}/a/noise.png,1,0\n{side}/b/noise.png,0,1" for side in ("train", "test")]
    write_text(folder / "labels.csv", "\n".join(["file,a,b", *rows]))
