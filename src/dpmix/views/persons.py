"""Which of a person's images the views of a step are cut from.

Sensitivity: the choice reads the number of that person's images and the group's own draw, and
nothing of another person. So all views of a group are a function of one person (two for
`microbatch-mixup`), and adding or removing a person, or any of their images, changes one clipped
gradient (`tests/properties/test_person_unit.py`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dpmix.views.draws import ViewDraws
from dpmix.views.spec import ViewSpec


def person_images(
    images: Sequence[Int64[Tensor, " _"]], draws: ViewDraws, spec: ViewSpec
) -> tuple[Int64[Tensor, " I"], Int64[Tensor, "G A"]]:
    """Draw up to `spec.images_per_person` images of each person, without replacement.

    Args:
        images: the places of each person's images, the persons of a group next to each other.
        draws: one row for each group.
        spec: the views, for persons.

    Returns:
        The places of the drawn images, and for each base view the one that it is cut from, by its
        number among them. A person's images take turns, as the persons of a group do.
    """
    assert spec.images_per_person is not None
    members, views = spec.examples_per_group, spec.base_views
    most = min(spec.images_per_person, -(-views // members))
    places, source, start = [torch.empty(0, dtype=torch.int64)], [], 0
    turn = torch.arange(views)
    rows = torch.empty(views, dtype=torch.int64)
    for number, own in enumerate(images):
        group, member = divmod(number, members)
        seed = int(draws.images[group, member])
        order = np.random.default_rng(seed).permutation(len(own))[:most]
        places.append(own[torch.from_numpy(order)])
        mine = turn % members == member
        rows[mine] = start + (turn[mine] // members) % len(order)
        start += len(order)
        if member == members - 1:
            source.append(rows.clone())
    return torch.cat(places), torch.stack(source) if source else torch.empty(0, views).long()
