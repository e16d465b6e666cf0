"""Where the head of a run starts: which start the settings, the data and the pool offer.

Guarantee: it reads settings, class names, public weights and public images, and nothing private.
"""

import re
import warnings

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dpmix.data.image import Progress
from dpmix.data.source import Task
from dpmix.errors import DpmixError
from dpmix.models.backbones.backbone import Backbone
from dpmix.models.head import BackboneClassifier, LinearHead
from dpmix.models.prior import HeadStart, start_from_pool, start_from_text
from dpmix.pool.pool import PublicPool
from dpmix.pool.prompts import PLACEHOLDER, readable, template_text
from dpmix.runs.config import Config
from dpmix.runs.settings import ModelConfig, ViewConfig

OPEN_CLIP = "open_clip:"  # backbones with a text tower
_WORD = re.compile(r"[^\W\d_]{2}")  # two letters of any alphabet
_BATCH, _LISTED = 64, 3


def choose_start(model: ModelConfig, views: ViewConfig, task: Task) -> ModelConfig:
    """The best start of a head that these settings offer; `require_start` looks at the rest."""
    if task == "multi-label" and model.head_start not in (None, "zero"):
        raise DpmixError(
            f"head_start {model.head_start} makes a head that chooses one class an image; with "
            "--task multi-label use --head-start zero"
        )
    if model.backbone is None or model.model is not None or model.head_start is not None:
        return model
    start: HeadStart = "zero"
    words = model.backbone.startswith(OPEN_CLIP) and model.feature_norm == "unit"
    if task == "single-label" and views.pool is not None:
        start = "pool" if views.pool_role != "pretrain" else "zero"
    elif task == "single-label" and words:
        start = "text"
    return model.model_copy(update={"head_start": start})


def require_start(
    config: Config, given: ModelConfig, class_names: tuple[str, ...], labelled: int
) -> Config:
    """Check that the data and the pool offer the head's start; a chosen one becomes `zero`.

    Args:
        config: as `choose_model` returns it.
        given: what the user asked for.
        class_names: of the private data.
        labelled: number of classes that have an image in the pool.

    Raises:
        DpmixError: the user asked for a start that is not there.
    """
    fault = None
    if config.model.head_start == "text":
        numbers = [name for name in class_names if not _WORD.search(readable(name))]
        if numbers:
            fault = (
                f"class '{numbers[0]}' is no word; expected class names that a text model knows: "
                "rename the folders"
            )
    elif config.model.head_start == "pool" and labelled < 2:
        fault = (
            f"the pool has labelled images of {labelled} class{'es' * (labelled != 1)}; expected "
            "two or more: map them with --pool-labels"
        )
    elif (
        config.model.head_start == "pool"
        and given.head_start is None
        and labelled < len(class_names)
    ):
        # Such a start measured worse than none (docs/results/starts.md).
        absent = len(class_names) - labelled
        fault = f"the pool has no image of {absent} of {len(class_names)} classes"
        warnings.warn(
            f"{fault}, so the head starts at zero; to start from the pool all the same, give "
            "--head-start pool",
            stacklevel=2,
        )
    if fault is not None:
        if given.head_start is not None:
            raise DpmixError(f"head_start {given.head_start}: {fault}, or use --head-start zero")
        zero = config.model.model_copy(update={"head_start": "zero"})
        config = config.model_copy(update={"model": zero})
    untrained = config.model.head_start in (None, "zero") and config.views.pool_role != "pretrain"
    if config.privacy.steps == 0 and untrained:
        raise DpmixError(
            "steps is 0, which publishes the start of a model, and this one starts untrained; give "
            "--steps, or a start: --head-start pool or text"
        )
    return config


def check_text_start(model: ModelConfig) -> None:
    """Refuse prompts or a text start that mean nothing for `model`, before data are read."""
    for template in model.text_templates:
        template_text(template)
    if model.head_start == "text":
        if not (model.backbone or "").startswith(OPEN_CLIP):
            raise DpmixError(
                f"head_start text: backbone '{model.backbone}' has no text tower; use an open_clip "
                "backbone, or --head-start zero"
            )
    elif model.text_templates:
        raise DpmixError(
            f"text_templates is '{model.text_templates[0]}', which head_start {model.head_start} "
            "has no use for; leave out one of them"
        )


def start_head(
    config: Config,
    model: nn.Module,
    backbone: Backbone | None,
    pool: PublicPool | None,
    report: Progress,
) -> None:
    """Write the start that the settings name into the head, from public inputs alone.

    Args:
        config: settings, with the classes' names.
        model: changed in place.
        backbone: of the model.
        pool: public images, for `pool`.
        report: called with (batches embedded, batches in all).
    """
    chosen = config.model
    if backbone is None or chosen.head_start in (None, "zero"):
        return
    assert isinstance(model, BackboneClassifier) and isinstance(model.head, LinearHead)
    assert config.input is not None
    names = config.input.class_names
    if chosen.head_start == "text":
        assert backbone.text is not None  # `check_settings` refuses other backbones
        tower = backbone.text()
        templates = [template_text(one) for one in chosen.text_templates or ("photo",)]
        prompts = [
            [one.replace(PLACEHOLDER, readable(name)) for one in templates] for name in names
        ]
        start_from_text(model.head, prompts, tower.embed, tower.scale)
        return
    assert pool is not None
    fitted = start_from_pool(
        model.head, embedded(backbone, model, pool, torch.arange(len(pool)), report), pool.labels
    )
    if fitted.without:
        absent = ", ".join(names[label] for label in fitted.without[:_LISTED])
        more = len(fitted.without) - _LISTED
        warnings.warn(
            f"the pool has no image of {len(fitted.without)} of {len(names)} classes ({absent}"
            f"{f' and {more} more' if more > 0 else ''}): their weights start at the mean of the "
            "other classes'",
            stacklevel=2,
        )


def embedded(
    backbone: Backbone,
    model: nn.Module,
    pool: PublicPool,
    which: Int64[Tensor, " P"],
    report: Progress = lambda done, total: None,
) -> Float[Tensor, "P D"]:
    """The features of the images of `pool` at `which`, on the device of `model`."""
    device, features = next(model.parameters()).device, []
    batches = which.split(_BATCH)
    for done, batch in enumerate(batches, start=1):
        features.append(backbone.features(pool.take(batch.to(device))[0]))
        report(done, len(batches))
    return torch.cat(features)
