"""Who each image belongs to, where the unit of privacy is a person with all their images.

Guarantee: every image has exactly one person, and a person's images are found from their own places
alone: adding or removing a person moves no other person's images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Persons:
    """The persons behind N images, numbered in the order of their names.

    Attributes:
        owner: the person of every image, 0..P-1; every person has an image.
        names: one for each person; private.
    """

    owner: Int64[Tensor, " N"] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    @classmethod
    def named(cls, names: Sequence[str]) -> "Persons":
        """The persons whose name each image has."""
        distinct = sorted(set(names))
        number = {name: person for person, name in enumerate(distinct)}
        return cls(torch.tensor([number[name] for name in names]).long(), tuple(distinct))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def counts(self) -> Int64[Tensor, " P"]:
        """How many images each person has."""
        return torch.bincount(self.owner, minlength=len(self))

    @cached_property
    def _order(self) -> tuple[Int64[Tensor, " N"], Int64[Tensor, " Q"]]:
        starts = torch.cat([torch.zeros(1).long(), self.counts.cumsum(0)])
        return self.owner.argsort(stable=True), starts

    def images(self, person: int) -> Int64[Tensor, " M"]:
        """The places of a person's images, ascending."""
        order, starts = self._order
        return order[starts[person] : starts[person + 1]]

    def and_others(self, count: int) -> "Persons":
        """These, and `count` more with one image each."""
        more = torch.arange(len(self), len(self) + count)
        return Persons(torch.cat([self.owner, more]), (*self.names, *[""] * count))

    def of_images(self, indices: Int64[Tensor, " R"]) -> "Persons":
        """The persons of the images at `indices`; those without an image there drop out."""
        kept, owner = self.owner[indices].unique(return_inverse=True)
        return Persons(owner, tuple(self.names[person] for person in kept.tolist()))
