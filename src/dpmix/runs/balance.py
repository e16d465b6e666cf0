"""The balance of the classes of a run: whose prevalences, and what they do to the plan.

Guarantee: prevalences come from a public file, or from one count of the private images with
Gaussian noise, which the plan composes with the steps. A resumed run takes those that it began
with, so that nothing is released twice (`tests/runs/test_balance.py`). Only the denominator of the
plan depends on them, which divides what was released.
"""

from dataclasses import replace
from pathlib import Path

from dpmix.data.prevalence import read_prevalences
from dpmix.data.source import class_shares
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import calibrate_sigma
from dpmix.privacy.balance import class_weights, mean_weight, release_prevalences
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Randomness
from dpmix.reports.summary import Row
from dpmix.runs.config import Config
from dpmix.runs.settings import PrivacyConfig
from dpmix.training.distributed import Ranks

PRIVATE, SPEND = "private", 0.05
# Images of a class, times epsilon and over L, that its weighted gradients need to stand out of the
# noise; rarer classes count as if they had as many (docs/unequal-classes.md).
LEAST = 20.0
_SHOWN = 10

Prevalences = tuple[float, ...]


def choose_balance(config: Config) -> Config:
    """Choose balance and spend from the other settings; refuse those that do not fit together."""
    privacy, given = config.privacy, config.privacy.class_prevalence
    balance = privacy.balance or ("none" if given is None else "weights")
    if given is None and balance != "none":
        raise DpmixError(
            f"balance {balance} needs the classes' shares of the training images, which are "
            "private; give public ones, --class-prevalence FILE, or pay for a noisy count, "
            "--class-prevalence private"
        )
    if given is not None and (balance == "none" or privacy.steps == 0):
        idle = "--balance none" if balance == "none" else "--steps 0"
        raise DpmixError(
            f"class_prevalence is '{given}', which {idle} has no use for; leave out one of them"
        )
    if balance != "none" and config.views.method == "microbatch-mixup":
        raise DpmixError(
            f"balance {balance} weighs every image by its class, and method microbatch-mixup mixes "
            "images of two classes; use --method mix-self, or --balance none"
        )
    return _with(config, balance=balance, spend=_spend(privacy))


def _spend(privacy: PrivacyConfig) -> float | None:
    if privacy.class_prevalence != PRIVATE:
        if privacy.spend is not None:
            raise DpmixError(
                f"spend is {privacy.spend:g} but nothing is counted; give --class-prevalence "
                "private, or leave it out"
            )
        return None
    spend = SPEND if privacy.spend is None else privacy.spend
    if not 0 < spend < privacy.epsilon:
        raise DpmixError(
            f"spend is {spend:g}, a part of epsilon {privacy.epsilon:g}; expected a number between "
            f"0 and that: give --spend {SPEND:g}"
        )
    if privacy.expected_runs is not None:
        raise DpmixError(
            "class_prevalence is 'private', which every run of a private selection would count "
            "again; give --class-prevalence FILE"
        )
    return spend


def find_prevalences(
    config: Config, splits: Splits, n: int, ranks: Ranks, *, trial: bool, resumed: bool
) -> Prevalences | None:
    """The classes' shares of the training images, or None where no balance is asked for.

    A `trial` counts nothing: it takes all classes as equally frequent, as `balance_rows` says. A
    `resumed` run takes those in its settings. With several processes, rank 0 draws the noise. `n`
    is N. Small shares are raised (`LEAST`), by public numbers alone.
    """
    privacy, train = config.privacy, splits.train
    if privacy.class_prevalence is None:
        return None
    if train.labels.ndim != 1:
        raise DpmixError(
            f"balance {privacy.balance} weighs an image by its class, and images of '{splits.name}'"
            " have several; use --balance none"
        )
    if resumed:
        assert config.input is not None
        return config.input.prevalences
    if privacy.class_prevalence != PRIVATE:
        path = Path(privacy.class_prevalence).expanduser()
        return _raised(read_prevalences(path, train.class_names), privacy, n)
    if trial:
        return (1 / len(train.class_names),) * len(train.class_names)
    drawn = None
    if ranks.is_main:
        shares = class_shares(train, privacy.unit or "image")
        drawn = release_prevalences(shares, count_sigma(privacy), Randomness(config.run.seed).count)
    return _raised(ranks.broadcast_object(drawn), privacy, n)


def _raised(shares: Prevalences, privacy: PrivacyConfig, n: int) -> Prevalences:
    """Raise small shares: with a tiny one, the weights of all other classes would be tiny too."""
    size, classes = float(n), len(shares)
    if privacy.sampling_rate is not None and privacy.denominator is not None:  # N is private
        size = privacy.denominator / privacy.sampling_rate
    least = min(1 / classes, LEAST * classes / (privacy.epsilon * size))
    raised = [max(share, least) for share in shares]
    whole = sum(raised)
    return tuple(share / whole for share in raised)


def count_sigma(privacy: PrivacyConfig) -> float:
    """The noise on each count for the epsilon that is to be spent, at the run's delta."""
    assert privacy.spend is not None and privacy.delta is not None
    return calibrate_sigma(1.0, 1, privacy.spend, privacy.delta)


def with_balance(plan: PrivacyPlan, prevalences: Prevalences | None) -> PrivacyPlan:
    """The plan, its sums divided by the batch's expected weight; a given denominator stays."""
    if prevalences is None or plan.n is None:
        return plan
    return replace(plan, denominator=plan.denominator * mean_weight(prevalences))


def balance_rows(config: Config, trial: bool = False) -> list[Row]:
    """The weight of each class, and where it comes from, in a line."""
    assert config.input is not None
    privacy, found = config.privacy, config.input.prevalences
    if found is None:
        return []
    if trial and privacy.spend is not None:
        how = f"{privacy.balance} by a private count (epsilon {privacy.spend:g}), which a dry run "
        return [("balance", f"{how}does not make: all classes count as equally frequent here")]
    names, weights = config.input.class_names, class_weights(found)
    parts = [
        f"{name} {share:.1%} x {weight:.3g}"
        for name, share, weight in zip(names[:_SHOWN], found, weights, strict=False)
    ]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    source = "public prevalences"
    if privacy.spend is not None:
        source = f"a private count, epsilon {privacy.spend:g}, included in epsilon"
    return [("balance", f"{privacy.balance} by {source}: {', '.join(parts)}{more}")]


def _with(config: Config, **values: object) -> Config:
    return config.model_copy(update={"privacy": config.privacy.model_copy(update=values)})
