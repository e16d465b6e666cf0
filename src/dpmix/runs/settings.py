"""Every setting of a run, section by section: its type, its bounds, its default and its help."""

from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dpmix.data.image import Reading
from dpmix.data.splits import JudgedOn
from dpmix.models.finetune import Trainable
from dpmix.models.head import FeatureNorm
from dpmix.pool.class_map import Unmapped
from dpmix.views.extra_augment import ExtraAugment
from dpmix.views.spec import Average, Method, PoolDraw


def _options(value: object) -> object:
    """A mapping, or its YAML text as it is typed on the command line."""
    return yaml.safe_load(value) if isinstance(value, str) else value


class Section(BaseModel):
    """A section of the tree: frozen, and no field that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Which images, and how they are read."""

    data: str = Field(
        "mnist5k",
        description="a folder of images, an .npz file, mnist5k, or one of torchvision's sets: "
        "cifar10, cifar100, eurosat, caltech256, sun397, pet; or hf:NAME, hf:NAME:CONFIGURATION",
    )
    data_root: str = Field("data", description="where torchvision keeps its data sets")
    download: bool = Field(False, description="fetch a named set that is not there")
    test_fraction: float | None = Field(
        None,
        description="share of test images, for a folder without train and test folders; default "
        "0.2",
    )
    image_size: int | None = Field(
        None,
        description="make every image a square of this many pixels: resized, and cut to the centre "
        "or, where that would cut off more than a tenth, padded with its own border",
    )
    channels: int | None = Field(None, description="convert every image to 1 (grey) or 3 (RGB)")
    classes: int | None = Field(
        None, description="keep the first so many classes only, in training and test images"
    )
    validation_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="for tuning: share of the TRAINING images to hold out, without protection, and "
        "to judge on instead of the test images",
    )
    train_images: int | None = Field(
        None,
        description="train on so many images, by a fixed order of their places; the guarantee is "
        "about these",
    )
    skip_corrupt: bool = Field(False, description="leave out unreadable images and count them")
    normalization: str | None = Field(
        None,
        description="public pixel constants: unit, half (default), imagenet; not with --backbone",
    )
    workers: int | None = Field(None, description="decoding threads; default: one per core")

    @property
    def judged_on(self) -> JudgedOn:
        """What the model is evaluated on."""
        return "test" if self.validation_fraction is None else "validation"


class ViewConfig(Section):
    """Which views of an example are averaged before clipping."""

    method: Method | None = Field(
        None,
        description="none, self-aug, mix-self, mix-diff, microbatch-mixup; default mix-self, but "
        "self-aug for cnn-small and a head on scatternet, none for one on mobilenet-v2-offline: "
        "they measured best",
    )
    k_base: int | None = Field(
        None,
        description="K_BASE: self-augmentations of each image; default 16 (scatternet and "
        "cnn-small 4, or 8 for self-aug; cnn-small on many images fewer, to 1)",
    )
    k_self: int | None = Field(
        None,
        description="K_SELF: mixups within one image's views; default 18 (scatternet and "
        "cnn-small 4)",
    )
    k_diff: int = Field(2, description="K_DIFF: public images mixed in (mix-diff)")
    mixup_alpha: float = Field(0.2, description="alpha of Beta(alpha, alpha), the mixing weight")
    crop_padding: int | None = Field(
        None,
        description="reflect padding before the random crop, in pixels; default 4, for cnn-small 1",
    )
    flip: bool | None = Field(
        None, description="mirror views at random; default: as suits the data (off for digits)"
    )
    extra_augment: ExtraAugment = Field(
        "none",
        description="after crop and flip: none, color-jitter, affine, cutout, noise, blur, all",
    )
    average: Average = Field("all", description="average all views, or mixed-only")
    pool: str | None = Field(
        None, description="public images: a folder with one folder per class, or an .npz of JPEGs"
    )
    pool_labels: str | None = Field(
        None, description="CSV of pool_class,class: which class each class of the pool stands for"
    )
    pool_unmapped: Unmapped = Field(
        "refuse", description="pool classes that match none: refuse, leave-out, unlabelled"
    )
    pool_draw: PoolDraw = Field(
        "uniform", description="public images drawn: uniform, same-class, other-class"
    )
    pool_role: Literal["mix", "extra", "pretrain"] = Field(
        "mix", description="mix them in, extra views without mixup, or pretrain on them alone"
    )
    pretrain_epochs: int = Field(20, ge=1, description="passes over the pool, to pretrain on it")


class ModelConfig(Section):
    """What is trained: a model from scratch, or a head (and more) on a public backbone."""

    model: str | None = Field(
        None, description="from scratch, without public weights: cnn-small, wrn-16-4 or wrn-40-4"
    )
    shortcut: str | None = Field(
        None, description="wide ResNet's shortcut: conv (default) or conv-norm-relu"
    )
    backbone: str | None = Field(
        None,
        description="frozen public features: scatternet, mobilenet-v2-offline, "
        "timm:MODEL, torchvision:MODEL, open_clip:MODEL/WEIGHTS; default: the best at hand",
    )
    backbone_weights: str | None = Field(
        None, description="its weights: a local file or folder, instead of the library's own"
    )
    backbone_size: int | None = Field(
        None, ge=1, description="pixels that images are resized to for it; default: its own"
    )
    trainable: Trainable = Field(
        "head", description="what trains: head, norm-and-bias, lora, last-blocks, all"
    )
    last_blocks: int = Field(1, ge=1, description="how many blocks, for last-blocks")
    lora_rank: int = Field(8, ge=1, description="rank of the updates, for lora")
    feature_norm: FeatureNorm = Field(
        "unit", description="features before the head: none, unit, whiten (by the public pool)"
    )
    feature_length: float = Field(
        10.0, gt=0, description="length of every feature vector after unit or whiten"
    )


class CacheConfig(Section):
    """Views of a frozen backbone, embedded once."""

    fresh_views: bool = Field(False, description="embed new views at every step: no cache, slow")
    cache_views: int | None = Field(
        None,
        ge=1,
        description="M, embedded views of an image, of which a step draws K; default 36, or K if "
        "that is more (scatternet: K)",
    )
    cache_dtype: Literal["float16", "float32"] = Field(
        "float16", description="numbers of the cache: float16, float32"
    )
    cache_dir: str = Field(
        "runs/features",
        description="where caches lie, in a folder closed to other users; PRIVATE, shared by runs",
    )
    view_seed: int = Field(
        0, ge=0, description="of the cached views' random draws; need not be secret"
    )


class PrivacyConfig(Section):
    """The guarantee. `steps` or `epochs`; `expected_batch_size`, or rate and denominator."""

    epsilon: float = Field(
        3.0,
        description="privacy budget, default 3; 'inf' trains WITHOUT privacy or clipping",
    )
    delta: float | None = Field(
        None,
        description="delta of the guarantee, well under 1/N; default min(1e-5, 1 / (10 N))",
    )
    max_grad_norm: float = Field(1.0, description="C: every example's gradient is clipped to it")
    expected_batch_size: float | None = Field(
        None,
        description="q*N, examples expected in a step; default N for a head on a backbone, from "
        "scratch 2,048, else 400; at most N",
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
        description="of a private selection, on average, that this run is one of: epsilon is then "
        "that of publishing the best (dpmix sweep --private-selection sets it)",
    )
    allow_repeats: bool = Field(
        False,
        description="train although some images occur more than once, and state the larger epsilon "
        "of the person in the most frequent one as well",
    )
    spent: tuple[str, ...] = Field(
        (),
        description="JSON record of an earlier Gaussian release of these data, to count in epsilon; "
        "repeatable",
    )

    @property
    def n_is_public(self) -> bool:
        """Whether N may be stated: neither a rate nor a denominator took its place."""
        return self.sampling_rate is None and self.denominator is None


class OptimizerConfig(Section):
    """How the released gradients are used; none of it affects privacy."""

    optimizer: str = Field(
        "SGD", description="of torch.optim, by name: SGD, Adam, AdamW, ...; or DPAdamBC"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="learning rate; the default goes with the rest of the recipe"
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="momentum, where the optimizer has it; default 0.9"
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay")
    optimizer_options: Annotated[dict[str, Any], BeforeValidator(_options)] = Field(
        default_factory=dict, description="more of its arguments, as YAML: '{nesterov: true}'"
    )
    schedule: Literal["constant", "cosine"] = Field("constant", description="constant or cosine")
    ema_decay: float = Field(
        0.99, ge=0, lt=1, description="decay of the weights' moving average, warmed up"
    )


class RunConfig(Section):
    """Where and how the run happens."""

    output: str | None = Field(None, description="run folder; default: a new one under runs/")
    overwrite: bool = Field(False, description="replace the run in a folder that is not empty")
    seed: int | None = Field(
        None, ge=0, description="repeatable RESEARCH run: whoever knows the seed undoes the noise"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    engine: Literal["auto", "examplewise", "vectorized", "linear"] = Field(
        "auto",
        description="per-example gradients: auto (by a rule of model and K), examplewise, "
        "vectorized, linear",
    )
    view_chunk: int | None = Field(
        None, ge=1, description="views per forward pass, to bound memory; exact"
    )
    eval_every: int | None = Field(
        None, ge=1, description="steps between evaluations; default: ten in a run"
    )
    checkpoint_minutes: float = Field(
        5.0, ge=0, description="minutes between checkpoints, which --resume goes on from"
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints, where that is sooner"
    )
    tensorboard: bool = Field(False, description="write curves for TensorBoard")
    wandb: str | None = Field(
        None,
        description="project of Weights & Biases to send curves to, when the run ends "
        "(WANDB_MODE=offline: keep)",
    )
    log_private_diagnostics: bool = Field(
        False,
        description="add training loss and gradient norms to those curves: computed from private "
        "images WITHOUT noise",
    )
    keep_checkpoints: int = Field(2, ge=1, description="so many of the last checkpoints are kept")


PATHS = frozenset(
    {"data", "data_root", "pool", "pool_labels", "backbone_weights", "cache_dir", "spent", "output"}
)


"""Settings that can hold a path, which is not to be published."""


class InputConfig(Section):
    """What a trained model takes; written by a run, so that the model can be rebuilt."""

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    backbone_sha256: str | None = None
    reading: Reading = 1  # of runs from before there was another
