"""Every setting of a run, section by section: its type, bounds, default and help.

Each is declared once, here. None means "not given"; `runs/defaults.py` then chooses. What a setting
says of a place stands in its own metadata, which `places` reads.
"""

from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dpmix.data.image import Reading
from dpmix.data.splits import JudgedOn
from dpmix.models.finetune import Trainable
from dpmix.models.head import FeatureNorm
from dpmix.pool.class_map import Unmapped
from dpmix.views.extra_augment import ExtraAugment
from dpmix.views.spec import Average, Method, PoolDraw, ViewSpec

Place = Literal["path", "resume", "sweep"]

# Marks of a setting, for `json_schema_extra`; `places` says what they mean.
PATH: dict[str, Any] = {"path": True}
RESUME: dict[str, Any] = {"resume": True}
SWEEP: dict[str, Any] = {"sweep": True}


class Section(BaseModel):
    """A section of the settings: frozen, with no field that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Which images, and how they are read."""

    data: str = Field(
        "mnist5k",
        description="a folder of images, an .npz file, mnist5k, one of torchvision's sets (cifar10, "
        "cifar100, eurosat, caltech256, sun397, pet), hf:NAME or hf:NAME:CONFIGURATION",
        json_schema_extra=PATH | RESUME,
    )
    data_root: str = Field(
        "data", description="folder in which torchvision keeps its data sets", json_schema_extra=PATH | RESUME
    )
    download: bool = Field(
        False, description="download a named set that is missing", json_schema_extra=RESUME
    )
    test_fraction: float | None = Field(
        None,
        description="share of test images, for a folder without train and test folders; default "
        "0.2",
    )
    image_size: int | None = Field(
        None,
        description="make every image a square of this many pixels: resize it, and cut it to the "
        "centre or, where that would cut off more than a tenth, pad it with its own border",
    )
    channels: int | None = Field(None, description="convert every image to 1 (grey) or 3 (RGB)")
    classes: int | None = Field(
        None, description="use only the first N classes, in training and test images"
    )
    validation_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="for tuning: hold out this share of the TRAINING images, which are then not "
        "protected, and evaluate on them instead of the test images",
    )
    train_images: int | None = Field(
        None,
        description="train on a fixed subset of N images; the guarantee covers that subset",
    )
    skip_corrupt: bool = Field(False, description="leave out unreadable images and count them")
    normalization: str | None = Field(
        None,
        description="public pixel constants: unit, half (default), imagenet; not with --backbone",
    )
    workers: int | None = Field(
        None, description="number of decoding threads; default: one per core",
        json_schema_extra=RESUME,
    )  # fmt: skip

    @property
    def judged_on(self) -> JudgedOn:
        """What the model is evaluated on."""
        return "test" if self.validation_fraction is None else "validation"


class ViewConfig(Section):
    """Which views of an example are averaged before clipping."""

    method: Method | None = Field(
        None,
        description="which views are made; default: mix-self; where another measured better, that one (self-aug for "
        "cnn-small and scatternet, none for mobilenet-v2-offline)",
    )
    k_base: int | None = Field(
        None,
        description=f"K_BASE: self-augmentations of each image; default {ViewSpec.k_base}, fewer "
        "for scatternet and cnn-small",
    )
    k_self: int | None = Field(
        None,
        description=f"K_SELF: mixups within one image's views; default {ViewSpec.k_self}, fewer "
        "for scatternet and cnn-small",
    )
    k_diff: int = Field(ViewSpec.k_diff, description="K_DIFF: public images mixed in (mix-diff)")
    mixup_alpha: float = Field(
        ViewSpec.mixup_alpha, description="alpha of Beta(alpha, alpha), the mixing weight"
    )
    crop_padding: int | None = Field(
        None,
        description="reflect padding before the random crop, in pixels; default "
        f"{ViewSpec.crop_padding}, for cnn-small 1",
    )
    flip: bool | None = Field(
        None, description="mirror views at random; default: on, but off for digits"
    )
    extra_augment: ExtraAugment = Field(
        ViewSpec.extra_augment, description="a further augmentation after crop and flip"
    )
    average: Average = Field(
        ViewSpec.average, description="average all views, or only the mixtures"
    )
    pool: str | None = Field(
        None,
        description="public images: a folder with one folder per class, or an .npz of JPEGs",
        json_schema_extra=PATH | RESUME,
    )
    pool_labels: str | None = Field(
        None,
        description="CSV of pool_class,class: which class each class of the pool stands for",
        json_schema_extra=PATH | RESUME,
    )
    pool_unmapped: Unmapped = Field(
        "refuse", description="what to do with pool classes that match none"
    )
    pool_draw: PoolDraw = Field(
        ViewSpec.pool_draw, description="which public images an example draws"
    )
    pool_role: Literal["mix", "extra", "pretrain"] = Field(
        "mix", description="mix them in, use them as extra views without mixup, or pretrain on them"
    )
    pretrain_epochs: int = Field(20, ge=1, description="passes over the pool in pretraining")


class ScratchSettings(Section):
    """Settings of a model that is trained from scratch."""

    model: str | None = Field(
        None, description="train from scratch, without public weights: cnn-small, wrn-16-4, wrn-40-4"
    )
    shortcut: str | None = Field(
        None, description="wide ResNet's shortcut: conv (default) or conv-norm-relu"
    )


class BackboneSettings(Section):
    """Settings of a public backbone."""

    backbone: str | None = Field(
        None,
        description="frozen public features: scatternet, random-conv, mobilenet-v2-offline, "
        "timm:MODEL, torchvision:MODEL, open_clip:MODEL/WEIGHTS; default: the best on this machine",
    )
    backbone_weights: str | None = Field(
        None,
        description="path of a file or folder with the backbone's weights; default: the library's",
        json_schema_extra=PATH | RESUME,
    )
    backbone_size: int | None = Field(
        None, ge=1, description="side in pixels of the images that it takes; default: its own"
    )
    feature_norm: FeatureNorm = Field(
        "unit", description="normalize features before the head; whiten needs a public pool"
    )
    feature_length: float = Field(
        10.0, gt=0, description="length of every feature vector after unit or whiten"
    )


class BlockSettings(Section):
    """Settings of training the last blocks."""

    last_blocks: int = Field(1, ge=1, description="number of blocks, for last-blocks")


class LoraSettings(Section):
    """Settings of low-rank updates."""

    lora_rank: int = Field(8, ge=1, description="rank of the updates, for lora")


class ModelConfig(LoraSettings, BlockSettings, BackboneSettings, ScratchSettings):
    """What is trained: a model from scratch, or a head (and more) on a public backbone."""

    trainable: Trainable = Field("head", description="what to train of a backbone classifier")


class ViewCacheSettings(Section):
    """Whether and how many views are embedded once."""

    fresh_views: bool = Field(
        False, description="embed new views at every step: no cache, slow"
    )
    cache_views: int | None = Field(
        None,
        ge=1,
        description="M, embedded views of an image, of which a step draws K; default 36, or K if "
        "that is more (scatternet: K)",
    )


class CacheConfig(ViewCacheSettings):
    """Views of a frozen backbone, embedded once."""

    cache_dtype: Literal["float16", "float32"] = Field("float16", description="type of features")
    cache_dir: str = Field(
        "runs/features",
        description="folder of the caches, closed to other users; PRIVATE, shared by runs",
        json_schema_extra=PATH | RESUME,
    )
    view_seed: int = Field(
        0, ge=0, description="seed of the cached augmentations (need not be secret)"
    )


# What is trained, as a tagged union: each kind has the settings that it reads, and no other.


class FromScratch(ScratchSettings):
    """A model from scratch."""

    trained: Literal["scratch"]


class Head(BackboneSettings, ViewCacheSettings):
    """A head on a frozen backbone."""

    trained: Literal["head"]

    @model_validator(mode="after")
    def _has_a_cache(self) -> "Head":
        if self.fresh_views and self.cache_views is not None:
            raise ValueError(
                f"cache_views is {self.cache_views}, and --fresh-views trains without a cache; "
                "leave one out"
            )
        return self


class Finetuned(BackboneSettings):
    """A head and more of the backbone, on fresh views."""

    trained: Literal["norm-and-bias", "all"]
    fresh_views: bool = True  # they always are


class LastBlocks(BackboneSettings, BlockSettings):
    """A head and the backbone's last blocks."""

    trained: Literal["last-blocks"]
    fresh_views: bool = True


class Lora(BackboneSettings, LoraSettings):
    """A head and low-rank updates of the backbone."""

    trained: Literal["lora"]
    fresh_views: bool = True


Trained = Annotated[
    FromScratch | Head | Finetuned | LastBlocks | Lora, Field(discriminator="trained")
]


class PrivacyConfig(Section):
    """The guarantee. `steps` or `epochs`; `expected_batch_size`, or rate and denominator."""

    epsilon: float = Field(
        3.0, description="privacy budget; 'inf' trains WITHOUT privacy and without clipping"
    )
    delta: float | None = Field(
        None, description="delta of the guarantee; default: the smaller of 1e-5 and 1 / (10 N)"
    )
    max_grad_norm: float = Field(1.0, description="C: every example's gradient is clipped to it")
    expected_batch_size: float | None = Field(
        None,
        description="q*N, expected number of examples in a step; default N for a head on a "
        "backbone, from scratch 2,048, else 400; at most N",
    )
    sampling_rate: float | None = Field(
        None, description="q itself, with --denominator, when N must not count as public"
    )
    denominator: float | None = Field(
        None, description="divides the noisy sum; only with --sampling-rate"
    )
    steps: int | None = Field(
        None,
        description="T, training steps; default 50 (a head on more than 25,000 images: 100); from "
        "scratch N epsilon / 250, but 50 to 800",
    )
    epochs: float | None = Field(None, description="T as expected passes over the data")
    expected_runs: float | None = Field(
        None,
        description="mean number of runs of the private selection that this run is part of: epsilon "
        "is then that of publishing the best (dpmix sweep --private-selection sets it)",
    )
    allow_repeats: bool = Field(
        False,
        description="train although some images occur more than once, and state the larger epsilon "
        "of the person in the most frequent one as well",
    )
    prior_releases: tuple[str, ...] = Field(
        (),
        description="JSON record of an earlier Gaussian release of these data, to include in epsilon; repeatable",
        json_schema_extra=PATH,
    )

    @property
    def n_is_public(self) -> bool:
        """Whether N may be stated: neither a rate nor a denominator was given instead."""
        return self.sampling_rate is None and self.denominator is None


def _options(value: object) -> object:
    """A mapping, or its YAML text as it is typed on the command line."""
    return yaml.safe_load(value) if isinstance(value, str) else value


class OptimizerConfig(Section):
    """How the released gradients are used; none of it affects privacy."""

    optimizer: str = Field(
        "SGD", description="name of a torch.optim class: SGD, Adam, AdamW, ...; or DPAdamBC"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="learning rate; default: derived from noise, batch and steps"
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="momentum, where the optimizer has it; default 0.9"
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay")
    optimizer_options: Annotated[dict[str, Any], BeforeValidator(_options)] = Field(
        default_factory=dict,
        description="more arguments of the optimizer, as YAML: '{nesterov: true}'",
    )
    schedule: Literal["constant", "cosine"] = Field("constant", description="learning rate schedule")
    ema_decay: float = Field(
        0.99, ge=0, lt=1, description="decay of the weights' moving average, warmed up"
    )


class RunConfig(Section):
    """Where and how the run happens."""

    output: str | None = Field(
        None, description="run folder; default: a new one under runs/", json_schema_extra=PATH | SWEEP
    )
    overwrite: bool = Field(
        False,
        description="replace the run in a folder that is not empty",
        json_schema_extra=SWEEP,
    )
    seed: int | None = Field(
        None, ge=0, description="repeatable RESEARCH run: anyone who knows it can remove the noise"
    )
    device: str = Field(
        "auto", description="auto, cpu, cuda, cuda:1, mps", json_schema_extra=RESUME | SWEEP
    )
    engine: Literal["auto", "examplewise", "vectorized", "linear"] = Field(
        "auto", description="how per-example gradients are computed", json_schema_extra=RESUME
    )
    view_chunk: int | None = Field(
        None, ge=1, description="views per forward pass, to bound memory; exact",
        json_schema_extra=RESUME,
    )  # fmt: skip
    compile: bool = Field(
        False,
        description="use torch.compile, which takes up to a minute first; --dry-run prints after "
        "how many examples that pays off",
        json_schema_extra=RESUME,
    )
    eval_every: int | None = Field(
        None, ge=1, description="steps between evaluations; default: ten in a run"
    )
    checkpoint_minutes: float = Field(
        5.0, ge=0, description="minutes between checkpoints", json_schema_extra=RESUME
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints, where that is sooner",
        json_schema_extra=RESUME,
    )  # fmt: skip
    tensorboard: bool = Field(
        False, description="write curves for TensorBoard", json_schema_extra=RESUME
    )
    wandb: str | None = Field(
        None,
        description="project of Weights & Biases to send curves to when the run ends "
        "(WANDB_MODE=offline keeps them here)",
        json_schema_extra=RESUME,
    )
    log_private_diagnostics: bool = Field(
        False,
        description="add training loss and gradient norms to those curves: computed from private "
        "images WITHOUT noise",
        json_schema_extra=RESUME,
    )
    keep_checkpoints: int = Field(
        2, ge=1, description="number of checkpoints to keep", json_schema_extra=RESUME
    )


class InputConfig(Section):
    """What a trained model takes; written by a run, so that the model can be rebuilt."""

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    backbone_sha256: str | None = None
    reading: Reading = 1  # of runs that recorded none


SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "views": ViewConfig,
    "model": ModelConfig,
    "features": CacheConfig,
    "privacy": PrivacyConfig,
    "optimizer": OptimizerConfig,
    "run": RunConfig,
}
"""Section name -> its model. Setting names are unique across sections."""

LEAVES: dict[str, str] = {
    leaf: name for name, section in SECTIONS.items() for leaf in section.model_fields
}
"""Setting name -> its section's name."""


def places(mark: Place) -> frozenset[str]:
    """Names of the settings that say where something is, or where and how a run is computed.

    Args:
        mark: `path`: those whose value can name a place on this machine, and is never published.
            `resume`: those that a resumed run may change, since they do not change what is trained.
            `sweep`: those that are the same for every run of a sweep, and no part of what it is.
    """
    return frozenset(
        leaf
        for section in SECTIONS.values()
        for leaf, field in section.model_fields.items()
        if mark in (field.json_schema_extra or {})
    )
