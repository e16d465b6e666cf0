"""Fewer classes, training images held out for tuning, fewer training images; in this order.

Guarantee: an image's label decides about its class, and its place in the data set about all else,
by sha256. No pixel is looked at, no random generator asked, and the order is public.

What that means for the privacy claim: the training set that it is about is what is left in `train`,
and N is the number of those. Its neighbours are the sets with one of these images more or less,
and not the data sets that they were taken from: there one image more moves those behind it by one
place, and other images than before would be trained on (compare `hashed_split`, which goes by
paths). The images that are left out are not read by the training, those that are held out are
judged on without protection.
"""

from dataclasses import replace
from hashlib import sha256

import torch

from dpmix.data.source import ImageSource
from dpmix.data.splits import Splits, hashed_split
from dpmix.data.subset import Subset
from dpmix.errors import DpmixError


def narrowed(
    splits: Splits, classes: int | None, validation_fraction: float | None, train_images: int | None
) -> Splits:
    """The part of `splits` that is asked for; None leaves it as it is.

    Args:
        splits: as they were read.
        classes: keep the first so many, of both sides.
        validation_fraction: expected share of the training images that takes the test images' part.
        train_images: keep so many training images.

    Raises:
        DpmixError: more than there is, less than can be trained on, or a class without an image.
    """
    if classes is not None:
        splits = _first_classes(splits, classes)
    if validation_fraction is not None:
        train = splits.train
        held = hashed_split([f"validation:{i}" for i in range(len(train))], validation_fraction)
        rest, validation = (Subset.of(train, side.nonzero().flatten()) for side in (~held, held))
        splits = replace(
            splits,
            train=rest,
            test=validation,
            judged_on="validation",
            held_out=f"{100 * validation_fraction:g}% of the training images, each by the hash of "
            "its place",
        )
    if train_images is not None:
        splits = replace(splits, train=_some(splits.train, train_images))
    return splits


def _first_classes(splits: Splits, classes: int) -> Splits:
    there = len(splits.train.class_names)
    if not 2 <= classes <= there:
        raise DpmixError(f"classes is {classes}; {splits.name} has {there}: expected 2 to {there}")

    def of(source: ImageSource) -> Subset:
        kept = (source.labels < classes).nonzero().flatten()
        return Subset(source, kept, source.class_names[:classes])

    return replace(splits, train=of(splits.train), test=of(splits.test))


def _some(train: ImageSource, count: int) -> Subset:
    """The first of a fixed order, so that a smaller set is part of a larger; as they lay."""
    if not 1 <= count <= len(train):
        raise DpmixError(
            f"train_images is {count}; expected 1 or more, and no more than there are to train on: "
            "give fewer, or leave it out to train on all"
        )
    order = sorted(range(len(train)), key=lambda i: sha256(f"train:{i}".encode()).digest())
    return Subset.of(train, torch.tensor(sorted(order[:count])))
