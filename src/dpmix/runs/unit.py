"""The unit of privacy of a run: an image, or a person with all their images.

Guarantee: it reads who each image belongs to, for messages on this machine alone; what is published
depends on the settings and on N.
"""

import math
import warnings

from dpmix.data.persons import Persons
from dpmix.data.source import persons_of
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.reports.statement import shown_epsilon
from dpmix.runs.config import Config
from dpmix.runs.settings import ViewConfig
from dpmix.views.spec import IMAGES_PER_PERSON

_FEW = 100  # persons, below which the noise is told before training
_LARGE_EPSILON = 8.0


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
    persons: Persons | None = getattr(splits.train, "persons", None)
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
    if len(persons) < 2:
        raise DpmixError(
            "all training images belong to one person; expected several persons: check --persons "
            "or --person-pattern, or give --unit image"
        )
    most = views.images_per_person or IMAGES_PER_PERSON
    k_base = views.k_base
    if given.k_base is None and k_base is not None:
        k_base = max(k_base, most)
    views = views.model_copy(update={"images_per_person": most, "k_base": k_base})
    return config.model_copy(update={"views": views})


def warn_of_persons(plan: PrivacyPlan, splits: Splits) -> None:
    """Say, before training, what a plan promises or costs where images have persons."""
    persons: Persons | None = getattr(splits.train, "persons", None)
    if persons is None or not plan.private:
        return
    if plan.unit == "image":
        most = int(persons.counts.max())
        if most > 1:
            epsilon = shown_epsilon(epsilon_of_copies(plan, most, plan.steps))
            warnings.warn(
                f"the unit of privacy is an image, and one person has {most} training images: for "
                f"that person epsilon is {epsilon}, not {shown_epsilon(plan.epsilon)}; --unit "
                "person protects every person alike",
                stacklevel=2,
            )
    elif len(persons) < _FEW and plan.target_epsilon <= _LARGE_EPSILON and plan.n is not None:
        # What the noise of all steps leaves, next to gradients of at most C.
        noise = plan.noise_std / plan.denominator / math.sqrt(plan.steps or 1)
        warnings.warn(
            f"there are {len(persons)} persons: averaged over all steps, the noise on each weight "
            f"has a standard deviation of {noise / plan.max_grad_norm:.2g} C, and a whole mean "
            "gradient is at most C long; more persons help most, then a head on a backbone",
            stacklevel=2,
        )
