"""What a run does where the user said nothing; docs/defaults.md says why.

Guarantee: every rule reads the settings, N, L and the image size, which count as public, and what
is installed on this machine; none reads an image or a label.
"""

import math
from typing import Any, TypeVar

from dpmix.data.named import has_sizes_of_its_own
from dpmix.errors import DpmixError
from dpmix.models.backbones.load import best_reachable
from dpmix.privacy.plan import PrivacyPlan, default_delta
from dpmix.runs.config import Config
from dpmix.runs.settings import ModelConfig, PrivacyConfig, Section, ViewConfig
from dpmix.training.feature_cache import CACHE_VIEWS
from dpmix.views.spec import Method

S = TypeVar("S", bound=Section)


DEMO = "mnist5k"


K_BASE, K_SELF = 16, 18  # the paper's


# Eight views an image instead of 34: one transform is slow, and the small network gains from no
# more (docs/results.md).
FEW_VIEWS = ("scatternet", "cnn-small")


FEW_K = 4


METHOD: Method = "mix-self"  # the paper's


CROP_PADDING = 4  # the paper's


# What small networks can learn in few steps (docs/results.md).
CROP_PADDING_FOR = {"cnn-small": 1}


# Where another method measured better, or as well at a lower cost (docs/results.md).
METHOD_ON: dict[str, Method] = {
    "scatternet": "self-aug", "mobilenet-v2-offline": "none", "cnn-small": "self-aug",
}  # fmt: skip


MOMENTUM = 0.9


STEPS = 50


# From scratch; docs/defaults.md has the measurements.
SCRATCH_BATCH, MOST_SCRATCH_STEPS = 2048, 800


SCRATCH_STEPS_WITHOUT_PRIVACY = 400


IMAGES_PER_STEP = 250  # over epsilon


MOST_EPSILON = 8.0  # that more steps are taken for


VIEWS_OF_A_RUN, MOST_SCRATCH_VIEWS = 200_000, 8


# Where other parts of a backbone than its head train.
FINETUNE_BATCH = 400


MANY_IMAGES, MORE_STEPS = 25_000, 100  # of a head


# docs/defaults.md has the measurements.
SCRATCH_WEIGHT_NOISE = 0.15


LARGEST_SCRATCH_RATE = 10.0


SCRATCH_RATE_WITHOUT_PRIVACY = 0.2


# Of a head on features of length one.
WEIGHT_NOISE = 2.0


LARGEST_HEAD_RATE = 64.0


HEAD_RATE_WITHOUT_PRIVACY = 16.0


def choose_model(config: Config) -> Config:
    """Settle what is trained, and what follows from that before any image is read.

    Raises:
        DpmixError: settings that contradict each other.
    """
    model = config.model
    if model.model is not None and model.backbone is not None:
        raise DpmixError(
            f"model '{model.model}' is trained from scratch and backbone '{model.backbone}' is "
            "not; give one of --model and --backbone"
        )
    _refuse_idle_backbone_settings(config)
    if model.model is None and model.backbone is None:
        demo = config.data.data == DEMO
        model = _set(model, **({"model": "cnn-small"} if demo else {"backbone": best_reachable()}))
    from_scratch = model.backbone is None
    views = _choose_views(config.views, model)
    data = config.data
    if from_scratch:
        data = _set(data, normalization=data.normalization or "half")
    else:
        if data.normalization is not None or data.channels == 1:
            raise DpmixError(
                f"backbone '{model.backbone}' takes RGB images with constants of its own; leave "
                "out --normalization and --channels"
            )
        data = _set(data, channels=3)
    return _set(config, model=model, views=views, data=data)


def _choose_views(views: ViewConfig, model: ModelConfig) -> ViewConfig:
    """The method that measured best for what is trained, and its numbers of views."""
    name = model.model or model.backbone or ""
    views = _set(views, method=_first(views.method, _method_for(name, views, model.trainable)))
    if name in FEW_VIEWS:
        alone = views.method == "self-aug"
        k_base, k_self = 2 * FEW_K if alone else FEW_K, FEW_K
    else:
        k_base, k_self = K_BASE, K_SELF
    padding = CROP_PADDING_FOR.get(name, CROP_PADDING)
    return _set(
        views,
        k_base=_first(views.k_base, k_base),
        k_self=_first(views.k_self, k_self),
        crop_padding=_first(views.crop_padding, padding),
    )


def _method_for(name: str, views: ViewConfig, trainable: str) -> Method:
    """K_SELF asks for mixtures, and K_BASE alone for crops."""
    if views.k_self is not None or trainable != "head" or name not in METHOD_ON:
        return METHOD
    return METHOD_ON[name] if views.k_base is None else "self-aug"


def choose_image_size(config: Config, backbone_size: int) -> Config:
    """Resize images of many sizes to what the backbone takes; others stay as they are stored."""
    data = config.data
    if data.image_size is not None or not has_sizes_of_its_own(data.data):
        return config
    return _set(config, data=_set(data, image_size=backbone_size))


def choose_few_views(config: Config, given: ViewConfig, n: int) -> Config:
    """Settle K_BASE of `cnn-small`, whose views of all steps together are as many for any N.

    Args:
        config: of `choose_model`.
        given: the views that the user asked for.
        n: N, the number of training examples.
    """
    of_small = config.model.model == "cnn-small" and config.views.method == "self-aug"
    if not of_small or given.k_base is not None or not config.privacy.n_is_public:
        return config
    draws = _draws(config.privacy, n)
    if not draws > 0:  # the plan refuses what makes it so, NaN included, by its name
        return config
    k_base = min(MOST_SCRATCH_VIEWS, max(1, round(VIEWS_OF_A_RUN / draws)))
    return _set(config, views=_set(config.views, k_base=k_base))


def _draws(privacy: PrivacyConfig, n: int) -> float:
    """How many examples all steps from scratch are expected to draw."""
    if privacy.epochs is not None:
        return privacy.epochs * n
    batch = _first(privacy.expected_batch_size, min(SCRATCH_BATCH, n))
    return float(batch * _first(privacy.steps, scratch_steps(n, privacy.epsilon)))


def scratch_steps(n: int, epsilon: float) -> int:
    """T from scratch: with more images or a larger epsilon the noise allows more steps.

    At the rate's bound it takes about N epsilon / 280 steps until the noise of all steps together
    is what `_rate` allows; more steps would need smaller ones.
    """
    if math.isinf(epsilon):
        return SCRATCH_STEPS_WITHOUT_PRIVACY
    wanted = n * min(epsilon, MOST_EPSILON) / IMAGES_PER_STEP
    return round(min(MOST_SCRATCH_STEPS, max(STEPS, wanted)))


def choose_recipe(config: Config, n: int, views: int) -> Config:
    """Settle delta, batch, steps and the size of the cache, for N examples and K views a step."""
    privacy, cache = config.privacy, config.features
    from_scratch = config.model.backbone is None
    head_only = not from_scratch and config.model.trainable == "head"
    ways = (privacy.expected_batch_size, privacy.sampling_rate, privacy.denominator)
    public_n = n if privacy.n_is_public else None
    privacy = _set(privacy, delta=_first(privacy.delta, default_delta(public_n)))
    if privacy.steps is None and privacy.epochs is None:
        steps = STEPS
        if public_n is not None and from_scratch:
            steps = scratch_steps(public_n, privacy.epsilon)
        elif public_n is not None and head_only and public_n > MANY_IMAGES:
            steps = MORE_STEPS
        privacy = _set(privacy, steps=steps)
    if all(way is None for way in ways):
        batch = n if head_only else min(SCRATCH_BATCH if from_scratch else FINETUNE_BATCH, n)
        privacy = _set(privacy, expected_batch_size=float(batch))
    if head_only and not cache.fresh_views:
        few = config.model.backbone == "scatternet" or config.views.method == "none"
        least = views if few else max(CACHE_VIEWS, views)
        cache = _set(cache, cache_views=_first(cache.cache_views, least))
    return _set(config, privacy=privacy, features=cache)


def choose_rate(config: Config, plan: PrivacyPlan) -> Config:
    """Settle SGD's momentum and the learning rate: as large as the noise of the run allows."""
    optimizer = config.optimizer
    if optimizer.optimizer.lower() == "sgd" and "momentum" not in optimizer.optimizer_options:
        optimizer = _set(optimizer, momentum=_first(optimizer.momentum, MOMENTUM))
        config = _set(config, optimizer=optimizer)
    if optimizer.learning_rate is not None:
        return config
    still = 1 - _first(optimizer.momentum, MOMENTUM)
    head = config.model.backbone is not None
    rate = _head_rate(plan, still, config.model.feature_length) if head else _rate(plan, still)
    return _set(config, optimizer=_set(optimizer, learning_rate=float(f"{rate:.3g}")))


def _rate(plan: PrivacyPlan, still: float) -> float:
    """From scratch. Nearly every gradient is clipped to C, so the bound goes with 1 / C."""
    if not plan.private:
        return SCRATCH_RATE_WITHOUT_PRIVACY * still
    largest = LARGEST_SCRATCH_RATE * still / plan.max_grad_norm
    return min(largest, SCRATCH_WEIGHT_NOISE * _rate_for_unit_noise(plan, still))


def _head_rate(plan: PrivacyPlan, still: float, length: float) -> float:
    """Of a head: on features of length F the same logits take weights F times smaller.

    Without clipping a step grows with F too.
    """
    if not plan.private:
        return HEAD_RATE_WITHOUT_PRIVACY / length**2
    largest = LARGEST_HEAD_RATE / plan.max_grad_norm
    return min(largest, WEIGHT_NOISE * _rate_for_unit_noise(plan, still)) / length


def _rate_for_unit_noise(plan: PrivacyPlan, still: float) -> float:
    """The rate whose noise has a standard deviation of one in each weight at the end of the run.

    T steps of rate r and momentum m = 1 - `still` leave r / (1 - m) sigma C sqrt(T) / denominator.
    """
    return still * plan.denominator / (plan.noise_std * math.sqrt(plan.steps))


def _refuse_idle_backbone_settings(config: Config) -> None:
    """Refuse what would do nothing: for a model from scratch, and without a cache."""
    model, cache = config.model, config.features
    if cache.cache_views is not None and (cache.fresh_views or model.trainable != "head"):
        why = "--fresh-views" if cache.fresh_views else f"--trainable {model.trainable}"
        raise DpmixError(
            f"cache_views is {cache.cache_views}, and {why} trains without a cache; leave one out"
        )
    if model.model is None:
        return
    ours = ("backbone_weights", "backbone_size", "trainable", "last_blocks", "lora_rank",
            "feature_norm", "feature_length")  # fmt: skip
    for section, names in ((model, ours), (cache, ("fresh_views", "cache_views"))):
        for name in names:
            if getattr(section, name) != type(section).model_fields[name].default:
                raise DpmixError(
                    f"{name} is {getattr(section, name)!r}, which model '{model.model}' has "
                    "no use for; give --backbone instead of --model, or leave it out"
                )


def _first(given: Any, default: Any) -> Any:
    return default if given is None else given


def _set(section: S, **values: Any) -> S:
    return section.model_copy(update=values)
