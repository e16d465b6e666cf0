"""What a run does where the user chose nothing; docs/defaults.md says why.

Guarantee: every rule reads the settings, N, L and the image size, which count as public, and what
is installed on this machine; none reads an image or a label.
"""

import math
from typing import Any, TypeVar

from dpmix.data.named import has_sizes_of_its_own
from dpmix.errors import DpmixError
from dpmix.models.backbones.load import best_reachable
from dpmix.models.backbones.scattering import SCATTERING, SCATTERING_MAP
from dpmix.models.scatter_cnn import SCATTER_CNN
from dpmix.privacy.plan import PrivacyPlan, default_delta, refuse_unfit_epsilon
from dpmix.runs.config import Config
from dpmix.runs.settings import ModelConfig, Section, ViewConfig
from dpmix.runs.start import check_text_start, choose_start
from dpmix.training.feature_cache import CACHE_VIEWS
from dpmix.views.spec import Method, ViewSpec

S = TypeVar("S", bound=Section)

DEMO = "mnist5k"

SMALL = (SCATTER_CNN, "cnn-small")
# The transform is slow, and `cnn-small` gains from no more views.
FEW_VIEWS = ("scatternet", *SMALL)
FEW_K = 4

CROP_PADDING_FOR = {"cnn-small": 1}  # what small networks can learn in few steps

# Where another method than the paper's measured better, or as well at a lower cost.
METHOD_ON: dict[str, Method] = {
    "scatternet": "self-aug", "efficientnet-lite0": "none", "efficientnet-lite2": "none",
    SCATTER_CNN: "self-aug", "cnn-small": "self-aug",
}  # fmt: skip

STEPS, MANY_IMAGES, MORE_STEPS = 50, 25_000, 100  # a head takes more steps on many images
CACHE_IMAGES = 24  # of a person, for method none: shared evenly by 2, 3, 4, 6 or 8 of them
FINETUNE_BATCH = 400  # where more of a backbone than its head trains

# From scratch.
SCRATCH_BATCH, MOST_SCRATCH_STEPS, SCRATCH_STEPS_WITHOUT_PRIVACY = 2048, 800, 400
IMAGES_PER_STEP, MOST_EPSILON = 250, 8.0  # T = N epsilon / 250, up to this epsilon
VIEWS_OF_A_RUN, MOST_SCRATCH_VIEWS = 200_000, 8

# `scatter-cnn`: fewer and larger steps (docs/results/scatter-cnn.md).
MAP_BATCH, MAP_IMAGES_PER_STEP, MOST_MAP_STEPS = 8192, 1000, 300

# The settings of model and cache that mean something only for what is trained in this way.
READ_BY = {
    "scratch": {"shortcut"},
    "head": {"cache_views"},
    "last-blocks": {"last_blocks"},
    "lora": {"lora_rank"},
    "head-then-all": {"head_steps"},
}
OF_A_BACKBONE = {
    "backbone_weights", "backbone_size", "feature_norm", "feature_length", "trainable",
    "fresh_views", "head_start", "text_templates",
}  # fmt: skip
READ_BY_SCATTER_CNN = {"backbone_size", "fresh_views"}


def choose_model(config: Config) -> Config:
    """Choose what is trained, and what follows from that before any image is read."""
    model, data = config.model, config.data
    both = (model.model, model.backbone)
    if None not in both and both != (SCATTER_CNN, SCATTERING_MAP):  # these are what a run writes
        raise DpmixError(
            f"model '{model.model}' is trained from scratch and backbone '{model.backbone}' is "
            "not; give one of --model and --backbone"
        )
    if not model.public_weights and model.backbone not in (None, *SCATTERING):
        raise DpmixError(
            f"backbone '{model.backbone}' has weights from public images; leave out one of "
            "--backbone and --no-public-weights"
        )
    if model.model is None and model.backbone is None:
        model = _set(model, **_default_network(config))
    _refuse_idle(_set(config, model=model))
    if model.model == SCATTER_CNN:
        model = _set(model, backbone=SCATTERING_MAP)
    model = choose_start(model, config.views, data.task)
    config = _set(config, model=model, views=_choose_views(config.views, model))
    if model.backbone is None:
        return _set(config, data=_set(data, normalization=data.normalization or "half"))
    own = data.normalization is not None and model.backbone_weights is None
    if own or data.channels == 1:
        raise DpmixError(
            f"backbone '{model.backbone}' takes RGB images with its own constants; leave out "
            "--normalization and --channels, or give --backbone-weights of other constants"
        )
    return _set(config, data=_set(data, channels=3))


def _default_network(config: Config) -> dict[str, str]:
    """What is trained where neither a model nor a backbone was asked for."""
    if config.data.data == DEMO:
        return {"model": "cnn-small"}
    if not config.model.public_weights:
        return {"model": SCATTER_CNN}
    return {"backbone": best_reachable()}


def _choose_views(views: ViewConfig, model: ModelConfig) -> ViewConfig:
    """The method that measured best for what is trained, and its numbers of views."""
    name = model.model or model.backbone or ""
    method = views.method
    if method is None:
        method = ViewSpec.method
        # K_SELF asks for mixtures, and K_BASE alone for crops.
        if views.k_self is None and model.trainable == "head" and name in METHOD_ON:
            method = METHOD_ON[name] if views.k_base is None else "self-aug"
    k_base, k_self = ViewSpec.k_base, ViewSpec.k_self
    if name in FEW_VIEWS:
        k_base, k_self = 2 * FEW_K if method == "self-aug" else FEW_K, FEW_K
    return _set(
        views,
        method=method,
        k_base=_first(views.k_base, k_base),
        k_self=_first(views.k_self, k_self),
        crop_padding=_first(views.crop_padding, CROP_PADDING_FOR.get(name, ViewSpec.crop_padding)),
    )


def _refuse_idle(config: Config) -> None:
    """Refuse settings that would do nothing."""
    model, cache = config.model, config.features
    if cache.fresh_views and cache.cache_views is not None:
        raise DpmixError(
            f"cache_views is {cache.cache_views}, and --fresh-views trains without a cache; leave "
            "one out"
        )
    if model.model == SCATTER_CNN:
        kind, flag, idle = "head", f"--model {SCATTER_CNN}", OF_A_BACKBONE - READ_BY_SCATTER_CNN
    elif model.model is not None:
        kind, flag, idle = "scratch", f"--model {model.model}", OF_A_BACKBONE
    else:
        kind, flag, idle = model.trainable, f"--trainable {model.trainable}", set()
    idle = idle.union(*(read for of, read in READ_BY.items() if of != kind))
    given = model.model_dump(exclude_defaults=True) | cache.model_dump(exclude_defaults=True)
    for name in given:
        if name in idle:
            raise DpmixError(
                f"{name} is {given[name]!r}, which {flag} has no use for; leave out one of them"
            )


def check_settings(config: Config) -> None:
    """Refuse what the settings and the chosen model alone rule out, before data are read."""
    config.view_spec(flip=False)
    if config.data.train_images is not None and not config.privacy.n_is_public:
        raise DpmixError(
            f"train_images is {config.data.train_images}, which is published with the settings and "
            "tells N; leave it out, or --sampling-rate and --denominator"
        )
    refuse_unfit_epsilon(config.privacy.epsilon)
    check_text_start(config.model)
    views, method = config.views, config.views.method
    if views.pool_role == "pretrain" and config.data.task == "multi-label":
        raise DpmixError(
            "pool_role pretrain trains a network that chooses one class an image; with --task "
            "multi-label use --method mix-diff, or no pool"
        )
    if views.pool_role == "pretrain" and method == "mix-diff":
        raise DpmixError(
            "pool_role pretrain trains on the pool first and then without it, so method mix-diff "
            "would have nothing to mix in; use --method mix-self"
        )
    if views.pool is not None:
        if not reads_pool(config):
            raise DpmixError(
                f"method {method} reads no public pool; leave out --pool, use --method mix-diff, "
                "or train on it first with --pool-role pretrain; a backbone's head can start from "
                "it with --head-start pool"
            )
        return
    needs = {
        "method mix-diff": method == "mix-diff",
        "feature_norm whiten": whitens(config),
        "head_start pool": config.model.head_start == "pool",
    }
    for what, needed in needs.items():
        if needed:
            raise DpmixError(
                f"{what} needs public images; give --pool FOLDER with one folder per class"
            )
    idle = {"pool_labels", "pool_unmapped", "pool_role"}
    for name, value in views.model_dump(include=idle, exclude_defaults=True).items():
        raise DpmixError(f"{name} is '{value}' but there is no pool; give --pool FOLDER")


def reads_pool(config: Config) -> bool:
    """Whether a run with these settings, its model chosen, reads a public pool."""
    views = config.views
    return (
        views.method == "mix-diff"
        or views.pool_role == "pretrain"
        or config.model.head_start == "pool"
        or whitens(config)
    )


def whitens(config: Config) -> bool:
    """Whether features are whitened by a public pool."""
    return config.model.backbone is not None and config.model.feature_norm == "whiten"


def choose_image_size(config: Config, backbone_size: int) -> Config:
    """Resize images of many sizes to what the backbone takes; others stay as they are stored."""
    data = config.data
    if data.image_size is not None or not has_sizes_of_its_own(data.data):
        return config
    return _set(config, data=_set(data, image_size=backbone_size))


def choose_few_views(config: Config, given: ViewConfig, n: int) -> Config:
    """Choose K_BASE of a small network, so that its views are as many for any N.

    Those of all steps count for `cnn-small`, and those that are embedded for `scatter-cnn`. `given`
    has the views that the user asked for.
    """
    of_small = config.model.model in SMALL and config.views.method == "self-aug"
    if not of_small or given.k_base is not None or not config.privacy.n_is_public:
        return config
    privacy = config.privacy
    if config.model.model == SCATTER_CNN:
        drawn = float(n)
    elif privacy.epochs is not None:
        drawn = privacy.epochs * n
    else:
        batch = _first(privacy.expected_batch_size, min(SCRATCH_BATCH, n))
        drawn = batch * _first(privacy.steps, scratch_steps(n, privacy.epsilon))
    if not drawn > 0:  # the plan refuses by name what makes it so, NaN included
        return config
    # A view or more of each of a person's images.
    least = config.views.images_per_person or 1
    k_base = max(least, min(MOST_SCRATCH_VIEWS, max(1, round(VIEWS_OF_A_RUN / drawn))))
    return _set(config, views=_set(config.views, k_base=k_base))


def scratch_steps(n: int, epsilon: float, on_maps: bool = False) -> int:
    """T from scratch: with more images or a larger epsilon the noise allows more steps."""
    if math.isinf(epsilon):
        return SCRATCH_STEPS_WITHOUT_PRIVACY
    wanted = n * min(epsilon, MOST_EPSILON) / (MAP_IMAGES_PER_STEP if on_maps else IMAGES_PER_STEP)
    most = MOST_MAP_STEPS if on_maps else MOST_SCRATCH_STEPS
    return round(min(most, max(STEPS, wanted)))


def choose_recipe(config: Config, n: int, views: int) -> Config:
    """Choose delta, batch, steps and the size of the cache, for N units and K views a step."""
    privacy, cache = config.privacy, config.features
    on_maps, from_scratch = config.model.model == SCATTER_CNN, config.model.model is not None
    head_only = not from_scratch and config.model.trainable == "head"
    public_n = n if privacy.n_is_public else None
    privacy = _set(privacy, delta=_first(privacy.delta, default_delta(public_n)))
    if privacy.steps is None and privacy.epochs is None:
        steps = STEPS
        if public_n is not None and from_scratch:
            steps = scratch_steps(public_n, privacy.epsilon, on_maps)
        elif public_n is not None and head_only and public_n > MANY_IMAGES:
            steps = MORE_STEPS
        privacy = _set(privacy, steps=steps)
    if privacy.expected_batch_size is None and privacy.n_is_public:
        most = MAP_BATCH if on_maps else SCRATCH_BATCH if from_scratch else FINETUNE_BATCH
        batch = n if head_only else min(most, n)
        privacy = _set(privacy, expected_batch_size=float(batch))
    if (head_only or on_maps) and not cache.fresh_views:
        few = config.model.backbone in SCATTERING or config.views.method == "none"
        least = views if few else max(CACHE_VIEWS, views)
        if config.views.images_per_person and config.views.method == "none":
            least = max(CACHE_IMAGES, views)
        cache = _set(cache, cache_views=_first(cache.cache_views, least))
    return _set(config, privacy=privacy, features=cache)


def choose_head_steps(config: Config, plan: PrivacyPlan) -> Config:
    """Choose how many of the plan's steps train the head alone, where all weights follow."""
    model = config.model
    if model.trainable != "head-then-all":
        return config
    return _set(config, model=_set(model, head_steps=_first(model.head_steps, plan.steps // 2)))


def _first(given: Any, default: Any) -> Any:
    return default if given is None else given


def _set(section: S, **values: Any) -> S:
    return section.model_copy(update=values)
