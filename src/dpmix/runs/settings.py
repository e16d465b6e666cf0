"""Every setting of a run, section by section: its type, bounds, default and help.

Each is declared once, here. None means "not given"; `runs/defaults.py` then chooses. What a setting
says of a place stands in its own metadata, which `places` reads.
"""

from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from dpmix.clipping.types import Engine
from dpmix.data.folder import TEST_FRACTION
from dpmix.data.source import Task
from dpmix.data.splits import JudgedOn
from dpmix.data.window import parse_window
from dpmix.models.finetune import Trainable
from dpmix.models.head import FeatureNorm
from dpmix.models.prior import HeadStart
from dpmix.pool.class_map import Unmapped
from dpmix.privacy.balance import Balance
from dpmix.privacy.unit import Unit
from dpmix.views.extra_augment import ExtraAugment
from dpmix.views.spec import IMAGES_PER_PERSON, Average, Method, PoolDraw, ViewSpec

Place = Literal["path", "resume", "sweep"]
PATH, RESUME, SWEEP = "path", "resume", "sweep"  # marks of a setting; `places` says what they mean


class Section(BaseModel):
    """A section of the settings: frozen, with no field that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataConfig(Section):
    """Which images, and how they are read."""

    data: Annotated[str, PATH, RESUME] = "mnist5k"
    """a folder of images, an .npz file, mnist5k, one of torchvision's sets (cifar10, cifar100,
    eurosat, caltech256, sun397, pet), hf:NAME or hf:NAME:CONFIGURATION"""
    data_root: Annotated[str, PATH, RESUME] = "data"
    """folder in which torchvision keeps its data sets"""
    download: Annotated[bool, RESUME] = False
    """download a named set that is missing"""
    test_fraction: float | None = Field(
        None,
        description="share of test images, for a folder without train and test folders; default "
        f"{TEST_FRACTION}",
    )
    image_size: int | None = None
    """make every image a square of this many pixels: resize it, and cut it to the centre or,
    where that would cut off more than a tenth, pad it with its own border"""
    channels: int | None = None
    """convert every image to 1 (grey) or 3 (RGB)"""
    classes: int | None = None
    """use only the first N classes, in training and test images"""
    validation_fraction: float | None = Field(None, gt=0, lt=1)
    """for tuning: hold out this share of the TRAINING images, which are then not protected, and
    evaluate on them instead of the test images"""
    train_images: int | None = None
    """train on a fixed subset of N images, of whole persons if there are any; the guarantee covers
    that subset"""
    persons: Annotated[str | None, PATH, RESUME] = None
    """CSV of file,person: who each image of a folder shows"""
    person_pattern: Annotated[str | None, PATH] = None
    """regular expression that finds the person in a file's path: 'patient(\\d+)'"""
    person_column: str | None = None
    """column of a Hugging Face set that names each image's person"""
    task: Task = "single-label"
    """whether an image has one class, or several labels of which some may be unknown"""
    labels: Annotated[str | None, PATH, RESUME] = None
    """several labels: CSV of file and one column for each label (1, 0; -1 or nothing: unknown)"""
    label_columns: tuple[str, ...] = ()
    """several labels: those to take, by name; repeatable; default: all"""
    subgroups: Annotated[str | None, PATH, RESUME] = None
    """CSV of file and one or more columns such as sex or scanner: measure every group of the
    evaluated images of a folder; no part of the training"""
    skip_corrupt: bool = False
    """leave out unreadable images and count them"""
    window: Annotated[str | None, AfterValidator(lambda text: parse_window(text) and text)] = None
    """CENTER,WIDTH of the grey values that 8 bits keep of 16-bit and DICOM images, such as 40,400;
    or dicom: the window in each DICOM file. It counts as public: do not choose it by looking at the
    images"""
    normalization: str | None = None
    """public pixel constants: unit, half or imagenet; with --backbone, those that
    --backbone-weights were trained with"""
    workers: Annotated[int | None, RESUME] = None
    """number of decoding threads; default: one per core"""

    @property
    def judged_on(self) -> JudgedOn:
        """What the model is evaluated on."""
        return "test" if self.validation_fraction is None else "validation"

    def reading(self) -> dict[str, Any]:
        """The arguments of `load_splits`."""
        return self.model_dump(exclude={"normalization", "subgroups"})


class ViewConfig(Section):
    """Which views of an example are averaged before clipping."""

    method: Method | None = None
    """which views are made; default: mix-self, or what measured better for the network"""
    k_base: int | None = Field(
        None,
        description=f"K_BASE: self-augmentations of each image; default {ViewSpec.k_base} or fewer",
    )
    k_self: int | None = Field(
        None, description=f"K_SELF: mixups of one image's views; default {ViewSpec.k_self} or fewer"
    )
    k_diff: int = ViewSpec.k_diff
    """K_DIFF: public images mixed in (mix-diff); a pool gains more as the start of a head"""
    mixup_alpha: float = ViewSpec.mixup_alpha
    """alpha of Beta(alpha, alpha), the mixing weight"""
    crop_padding: int | None = Field(
        None,
        description="reflect padding in pixels before the random crop; default "
        f"{ViewSpec.crop_padding} or less",
    )
    flip: bool | None = None
    """mirror views at random; default: on, but off for digits"""
    extra_augment: ExtraAugment = ViewSpec.extra_augment
    """a further augmentation after crop and flip"""
    average: Average = ViewSpec.average
    """average all views, or only the mixtures"""
    pool: Annotated[str | None, PATH, RESUME] = None
    """public images: a folder with one folder per class, or an .npz of JPEGs"""
    pool_labels: Annotated[str | None, PATH, RESUME] = None
    """CSV of pool_class,class: which class each class of the pool stands for"""
    pool_unmapped: Unmapped = "refuse"
    """what to do with pool classes that match none"""
    pool_draw: PoolDraw = ViewSpec.pool_draw
    """which public images an example draws"""
    pool_role: Literal["mix", "extra", "pretrain"] = "mix"
    """mix them in, use them as extra views without mixup, or pretrain on them"""
    pretrain_epochs: int = Field(20, ge=1)
    """passes over the pool in pretraining"""
    images_per_person: int | None = Field(
        None,
        ge=1,
        description="most images of a person in a step, drawn again each time; default "
        f"{IMAGES_PER_PERSON}",
    )


class ModelConfig(Section):
    """What is trained: a model from scratch, or a head (and more) on a public backbone."""

    model: str | None = None
    """train from scratch, without public weights: scatter-cnn, cnn-small, wrn-16-4, wrn-40-4"""
    public_weights: bool = True
    """whether weights from public images may be used; --no-public-weights takes scatter-cnn"""
    shortcut: str | None = None
    """wide ResNet's shortcut: conv or conv-norm-relu"""
    backbone: str | None = None
    """frozen public features: efficientnet-lite0, efficientnet-lite2, scatternet, timm:MODEL,
    torchvision:MODEL, open_clip:MODEL/WEIGHTS; default: the best on this machine"""
    backbone_weights: Annotated[str | None, PATH, RESUME] = None
    """path of a file or folder with the backbone's weights; default: the library's"""
    backbone_size: int | None = Field(None, ge=1)
    """side in pixels of the images that it takes; default: its own"""
    feature_norm: FeatureNorm = "unit"
    """normalize features before the head; whiten needs a public pool"""
    feature_length: float = Field(10.0, gt=0)
    """length of every feature vector after unit or whiten"""
    head_start: HeadStart | None = None
    """where the head starts: at zero weights; at the text embeddings of the class names; or at a
    head fitted to the public pool; default: pool or text where there is one"""
    text_templates: tuple[str, ...] = ()
    """prompt with {class} for --head-start text, or a name: photo, eurosat, pet, scene, digit;
    repeatable; default: photo"""
    last_blocks: int = Field(1, ge=1)
    """number of blocks, for last-blocks"""
    lora_rank: int = Field(8, ge=1)
    """rank of the updates, for lora"""
    trainable: Trainable = "head"
    """what to train of a backbone classifier; head-then-all trains the head first"""
    head_steps: int | None = Field(None, ge=0)
    """number of first steps that train the head alone, for head-then-all; default: half of T"""


class CacheConfig(Section):
    """Views of a frozen backbone, embedded once."""

    fresh_views: bool = False
    """embed new views at every step: no cache, slow"""
    cache_views: int | None = Field(None, ge=1)
    """M, embedded views of an image, of which a step draws K; default: K or more"""
    cache_dtype: Literal["float16", "float32"] = "float16"
    """type of features"""
    cache_dir: Annotated[str, PATH, RESUME] = "runs/features"
    """folder of the caches, closed to other users; PRIVATE, shared by runs"""
    view_seed: int = Field(0, ge=0)
    """seed of the cached augmentations (need not be secret)"""


class PrivacyConfig(Section):
    """The guarantee. `steps` or `epochs`; `expected_batch_size`, or rate and denominator."""

    epsilon: float = 3.0
    """privacy budget; 'inf' trains WITHOUT privacy and without clipping"""
    delta: float | None = None
    """delta of the guarantee; default: well below 1/N"""
    max_grad_norm: float = 1.0
    """C: the gradient of every image, or person, is clipped to it"""
    expected_batch_size: float | None = None
    """q*N, expected number of images, or persons, in a step, at most N; default: N for a head"""
    sampling_rate: float | None = None
    """q itself, with --denominator, when N must not count as public"""
    denominator: float | None = None
    """divides the noisy sum; only with --sampling-rate"""
    steps: int | None = None
    """T, training steps; default: chosen from N and epsilon"""
    epochs: float | None = None
    """T as expected passes over the data"""
    expected_runs: float | None = None
    """mean number of runs of the private selection that this run is part of: epsilon is then
    that of publishing the best (dpmix sweep --private-selection sets it)"""
    unit: Unit | None = None
    """what the guarantee protects: a person with all their images (default where images have
    persons), or one image"""
    balance: Balance | None = None
    """how frequent classes count less: clipped gradients are multiplied by their class's weight,
    or fewer of its images are drawn; default: weights with --class-prevalence, else none"""
    class_prevalence: Annotated[str | None, PATH] = None
    """share of each class: a CSV file of class,prevalence with public numbers, or private, which
    counts the training images with noise and pays --spend"""
    spend: float | None = None
    """epsilon of the private count, part of --epsilon; default with --class-prevalence private:
    0.05"""
    allow_repeats: bool = False
    """train although some images occur more than once, and state the larger epsilon of the
    person in the most frequent one as well"""
    prior_releases: Annotated[tuple[str, ...], PATH] = ()
    """JSON record of an earlier Gaussian release of these data, to include in epsilon;
    repeatable"""

    @property
    def n_is_public(self) -> bool:
        """Whether N may be stated: neither a rate nor a denominator was given instead."""
        return self.sampling_rate is None and self.denominator is None


class OptimizerConfig(Section):
    """How the released gradients are used; none of it affects privacy."""

    optimizer: str = "SGD"
    """name of a torch.optim class: SGD, Adam, AdamW, ...; or DPAdamBC"""
    learning_rate: float | None = Field(None, gt=0)
    """learning rate; default: derived from noise, batch and steps"""
    momentum: float | None = Field(None, ge=0, lt=1)
    """momentum, where the optimizer has it; SGD has it by default"""
    weight_decay: float = Field(0.0, ge=0)
    """weight decay"""
    optimizer_options: Annotated[
        dict[str, Any],
        BeforeValidator(lambda value: yaml.safe_load(value) if isinstance(value, str) else value),
    ] = Field(default_factory=dict)
    """more arguments of the optimizer, as YAML: '{nesterov: true}'"""
    schedule: Literal["constant", "cosine"] = "constant"
    """learning rate schedule"""
    ema_decay: float = Field(0.99, ge=0, lt=1)
    """decay of the weights' moving average, warmed up"""


class RunConfig(Section):
    """Where and how the run happens."""

    output: Annotated[str | None, PATH, SWEEP] = None
    """run folder; default: a new one under runs/"""
    overwrite: Annotated[bool, SWEEP] = False
    """replace the run in a folder that is not empty"""
    seed: int | None = Field(None, ge=0)
    """repeatable RESEARCH run: anyone who knows it can remove the noise"""
    device: Annotated[str, RESUME, SWEEP] = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    engine: Annotated[Engine, RESUME] = "auto"
    """how per-example gradients are computed; auto chooses by a rule of model and K; bookkeeping
    can be faster for few views, and adds in float32"""
    view_chunk: Annotated[int | None, RESUME] = Field(None, ge=1)
    """views per forward pass, to bound memory; exact"""
    eval_every: int | None = Field(None, ge=1)
    """steps between evaluations; default: a tenth of the steps"""
    checkpoint_minutes: Annotated[float, RESUME] = Field(5.0, ge=0)
    """minutes between checkpoints"""
    checkpoint_every: Annotated[int | None, RESUME] = Field(None, ge=1)
    """steps between checkpoints, where that is sooner"""
    tensorboard: Annotated[bool, RESUME] = False
    """write curves for TensorBoard"""
    wandb: Annotated[str | None, RESUME] = None
    """project of Weights & Biases to send curves to when the run ends (WANDB_MODE=offline keeps
    them here)"""
    keep_checkpoints: Annotated[int, RESUME] = Field(2, ge=1)
    """number of checkpoints to keep"""


class InputConfig(Section):
    """What a trained model takes; written by a run, so that the model can be rebuilt."""

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    backbone_sha256: str | None = None
    prevalences: tuple[float, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    """on the probability of the second of two classes, or of each label; chosen on validation
    images"""


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


def places(mark: Place) -> set[str]:
    """Names of the settings that have a mark in their metadata.

    Args:
        mark: `path`: the value can name a place on this machine, and is never published;
            `resume`: a resumed run may change it, since it does not change what is trained;
            `sweep`: it is the same for every run of a sweep, and no part of what a run is.
    """
    fields = [item for section in SECTIONS.values() for item in section.model_fields.items()]
    return {leaf for leaf, field in fields if mark in field.metadata}
