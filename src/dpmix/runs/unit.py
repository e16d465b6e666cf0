"""The unit of privacy of a run: an image, or a person with all their images.

Guarantee: it reads who each image belongs to, for messages on this machine alone; what is published
depends on the settings and on N.
"""

import warnings

import torch

from dpmix.data.source import known_persons, persons_of, unit_labels
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.reports.statement import shown_epsilon
from dpmix.runs.config import Config
from dpmix.runs.settings import ViewConfig
from dpmix.views.spec import IMAGES_PER_PERSON


def choose_unit(config: Config, given: ViewConfig, splits: Splits) -> Config:
    """Choose the unit: a person where the images have persons, unless `--unit image` is given.

    Args:
        config: as `choose_model` returns it.
        given: the views that the user asked for.
        splits: the data.

    Raises:
        DpmixError: a person is asked for and the images have none, there is one person alone, or
            `images_per_person` is given and the unit is an image.
    """
    persons = known_persons(splits.train)
    unit = config.privacy.unit or ("image" if persons is None else "person")
    privacy = config.privacy.model_copy(update={"unit": unit})
    config = config.model_copy(update={"privacy": privacy})
    views = config.views
    if unit == "image":
        if views.images_per_person is not None:
            raise DpmixError(
                f"images_per_person is {views.images_per_person}, and the unit of privacy is an "
                "image; give --persons or --person-pattern, or leave it out"
            )
        return config
    persons = persons_of(splits.train)
    classes = len(splits.train.class_names)
    pairs = torch.stack([persons.owner, unit_labels(splits.train, "image")]).unique(dim=1)
    if len(persons) == classes == pairs.shape[1]:
        raise DpmixError(
            "every class is one person; expected several persons in a class: check "
            "--person-pattern, whose match may be the class folder"
        )
    if len(persons) < 2:
        raise DpmixError(
            "all training images belong to one person; expected several persons: check --persons "
            "or --person-pattern, or give --unit image"
        )
    most = views.images_per_person or IMAGES_PER_PERSON
    k_base = views.k_base
    if given.k_base is None and k_base is not None:
        k_base = max(k_base, most)
    method = views.method
    if given.method is None and given.k_self is None and method == "mix-self":
        method = "self-aug"  # mixtures take the places of images (docs/results/persons.md)
    views = views.model_copy(update={"method": method, "images_per_person": most, "k_base": k_base})
    return config.model_copy(update={"views": views})


def warn_of_persons(plan: PrivacyPlan, splits: Splits) -> None:
    """Say, before training, what a plan for images promises to the person with the most of them."""
    persons = known_persons(splits.train)
    if persons is None or not plan.private or plan.unit == "person":
        return
    most = int(persons.counts.max())
    if most > 1:
        epsilon = shown_epsilon(epsilon_of_copies(plan, most, plan.steps))
        warnings.warn(
            f"the unit of privacy is an image, and one person has {most} training images: for that "
            f"person epsilon is {epsilon}, not {shown_epsilon(plan.epsilon)}; --unit person "
            "protects every person alike",
            stacklevel=2,
        )
