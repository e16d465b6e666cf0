"""What a run does where the user chose nothing; docs/defaults.md says why.

Guarantee: every rule reads the settings, N, L and the image size, which count as public, and what
is installed on this machine; none reads an image or a label.
"""

from typing import Any, TypeVar

from dpmix.data.named import has_sizes_of_its_own
from dpmix.errors import DpmixError
from dpmix.models.backbones.load import best_reachable
from dpmix.models.backbones.scattering import SCATTERING, SCATTERING_MAP
from dpmix.models.scatter_cnn import SCATTER_CNN
from dpmix.privacy.plan import PrivacyPlan, default_delta, refuse_unfit_epsilon
from dpmix.runs.config import Config
from dpmix.runs.from_scratch import SMALL, STEPS, from_scratch, scratch_steps
from dpmix.runs.settings import ModelConfig, Section, ViewConfig
from dpmix.runs.start import check_text_start, choose_start
from dpmix.training.feature_cache import CACHE_VIEWS
from dpmix.views.spec import Method, ViewSpec

S = TypeVar("S", bound=Section)

DEMO = "mnist5k"

# The transform is slow, and `cnn-small` gains from no more views.
FEW_VIEWS = ("scatternet", *SMALL)
FEW_K = 4

CROP_PADDING_FOR = {"cnn-small": 1}  # what small networks can learn in few steps

# Where another method than the paper's measured better, or as well at a lower cost.
METHOD_ON: dict[str, Method] = {
    "scatternet": "self-aug", "efficientnet-lite0": "none", "efficientnet-lite2": "none",
    SCATTER_CNN: "self-aug", "cnn-small": "self-aug",
}  # fmt: skip

MANY_IMAGES, MORE_STEPS = 25_000, 100  # a head takes more steps on many images
CACHE_IMAGES = 24  # of a person, for method none: shared evenly by 2, 3, 4, 6 or 8 of them
FINETUNE_BATCH = 400  # where more of a backbone than its head trains

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


def choose_recipe(config: Config, n: int, views: int) -> Config:
    """Choose delta, batch, steps and the size of the cache, for N units and K views a step."""
    privacy, cache = config.privacy, config.features
    network = config.model.model
    head_only = network is None and config.model.trainable == "head"
    public_n = n if privacy.n_is_public else None
    privacy = _set(privacy, delta=_first(privacy.delta, default_delta(public_n)))
    if privacy.steps is None and privacy.epochs is None:
        steps = STEPS
        if public_n is not None and network is not None:
            steps = scratch_steps(network, public_n, privacy.epsilon)
        elif public_n is not None and head_only and public_n > MANY_IMAGES:
            steps = MORE_STEPS
        privacy = _set(privacy, steps=steps)
    if privacy.expected_batch_size is None and privacy.n_is_public:
        most = from_scratch(network).batch if network is not None else FINETUNE_BATCH
        batch = n if head_only else min(most, n)
        privacy = _set(privacy, expected_batch_size=float(batch))
    if (head_only or network == SCATTER_CNN) and not cache.fresh_views:
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
