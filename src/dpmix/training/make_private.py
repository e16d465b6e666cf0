"""`make_private`: private steps for a model, an optimizer and a `torch` dataset in your own loop.

It only wires a `PrivateTrainer`. The number of classes is what the model returns, not what the
private labels hold.
"""

import warnings
from collections.abc import Collection, Mapping, Set
from dataclasses import replace

import numpy as np
from jaxtyping import Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from dpmix.clipping.model_check import check_private, number_of_classes
from dpmix.clipping.types import LOSSES, Engine, Loss
from dpmix.data.fingerprint import find_repeats, refuse_repeats, refuse_shared_images
from dpmix.data.normalization import Normalization
from dpmix.data.normalization import normalization as constants
from dpmix.data.persons import Persons
from dpmix.data.source import (
    ImageSource,
    Task,
    TensorSource,
    image_digests,
    known_persons,
    persons_of,
    task_of,
)
from dpmix.data.splits import plain_name
from dpmix.data.torch_dataset import PairDataset, Range, example_origins, read_images
from dpmix.errors import DpmixError
from dpmix.pool.pool import PublicPool
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.training.trainer import PrivateTrainer
from dpmix.views.builder import ViewBuilder
from dpmix.views.spec import IMAGES_PER_PERSON, ViewSpec


def make_private(
    model: nn.Module,
    optimizer: Optimizer,
    dataset: PairDataset | ImageSource,
    *,
    plan: PrivacyPlan,
    views: ViewSpec | None = None,
    normalization: Normalization | str = "half",
    pool: PublicPool | None = None,
    value_range: Range | None = None,
    task: Task = "single-label",
    loss: Loss | None = None,
    seed: int | None = None,
    engine: Engine = "auto",
    view_chunk: int | None = None,
    allow_repeats: bool = False,
    persons: Collection[object] | None = None,
) -> PrivateTrainer:
    """Make the steps of a training loop private.

    `trainer.step()` takes the place of everything from `for images, labels in loader` down to
    `optimizer.step()`: it draws a Poisson batch, which may be empty and is a step all the same,
    makes its views, clips, adds noise and steps `optimizer`. There is no loader and no batch to
    hold: what is private never leaves the step. Schedulers, evaluation and logging stay yours.

    ```python
    trainer = dpmix.make_private(model, optimizer, train_set, plan=plan)
    for _ in range(plan.steps):
        trainer.step()
        scheduler.step()
    print(plan.epsilon)  # holds wherever you stop; `epsilon_after(t)` does not
    ```

    To resume later, save `trainer.state()` and the state dicts of model and optimizer; then build
    the parts again, load them, and pass the saved state to `trainer.resume`.

    Args:
        model: maps images [B, C, H, W] to logits [B, L]; on the device to train on.
        optimizer: a `torch.optim` optimizer over the model's trainable parameters; from now on it
            refuses to step on gradients that this trainer did not release.
        dataset: N pairs of an image and a label, as in `read_images`, which are read into memory;
            or a source of `dpmix.data`. Its transform must make each image from that image alone.
        plan: the guarantee, from `PrivacyPlan.calibrate`.
        views: the method; None: DP-Mix_Self with the paper's numbers, mirroring included.
        normalization: public pixel constants, or their name: `unit`, `half`, `imagenet`.
        pool: public images, for `mix-diff`.
        value_range: the range of images that are floats, as in `read_images`.
        task: `multi-label`: each image has L labels, one for each of the model's outputs: 1, 0, and
            -1 or NaN where unknown.
        loss: maps logits [K, L] and soft labels [K, L], NaN where unknown, to losses [K], and keeps
            no state; None: cross-entropy, or `multi_label_loss`.
        seed: makes a run repeatable, and its noise recomputable.
        engine: how gradients are computed, as in `clipped_gradient_sum`.
        view_chunk: most views per forward pass, as in `clipped_gradient_sum`.
        allow_repeats: train although some images occur more than once (equal pixels, or one example
            twice in a `Subset` or a `ConcatDataset`), and warn of the larger epsilon of the person
            in the most frequent one.
        persons: who each image of `dataset` belongs to, such as patient numbers: the unit of
            privacy is then a person. The plan's n counts persons, and its unit is `person`; up to
            `views.images_per_person` images of each drawn person enter a step, 8 by default.

    Raises:
        DpmixError: a plan for another number of examples or persons, persons that are not one for
            each image, an image of two persons, views by name alone, repeated images,
            labels that the model has no output for, or as `read_images`, `ViewBuilder` and
            `PrivateTrainer` raise.
    """
    if views is not None and not isinstance(views, ViewSpec):
        raise DpmixError(
            f"views is {views!r}; expected a dpmix.ViewSpec, such as dpmix.ViewSpec('mix-self')"
        )
    source, views = _source(model, dataset, value_range, task), views or ViewSpec()
    owners = None
    if persons is not None:
        source = _with_persons(source, persons)
    count, of = len(source), "n=len(dataset)"
    if plan.unit == "person":
        owner = persons_of(source)
        count, of, owners = len(owner), "n=len(set(persons)), unit='person'", owner.owner.numpy()
        views = replace(views, images_per_person=views.images_per_person or IMAGES_PER_PERSON)
    elif known_persons(source) is not None:
        raise DpmixError(
            "the images have persons and the plan's unit of privacy is an image; give "
            "PrivacyPlan.calibrate(n=len(set(persons)), unit='person'), or leave the persons out"
        )
    if plan.n not in (None, count):
        raise DpmixError(
            f"the plan is for {plan.n} training {plan.unit}s and the dataset has {count}; give "
            f"PrivacyPlan.calibrate({of})"
        )
    if plan.private:
        origins = None if isinstance(dataset, ImageSource) else example_origins(dataset)
        found = find_repeats(image_digests(source), origins, owners)
        if owners is not None:
            refuse_shared_images(found, source)
        elif not allow_repeats:
            refuse_repeats(found, source, lambda m: epsilon_of_copies(plan, m, plan.steps))
        elif found.most > 1:
            copied = epsilon_of_copies(plan, found.most, plan.steps)
            warnings.warn(
                f"one image occurs {found.most} times in the dataset: for the person in it epsilon "
                f"is {copied:.3f} after {plan.steps} steps, not {plan.epsilon:.3f}",
                stacklevel=2,
            )
    if isinstance(normalization, str):
        normalization = constants(normalization, source.image_shape[0])
    builder = ViewBuilder(views, len(source.class_names), normalization, pool)
    return PrivateTrainer(
        model, source, plan=plan, views=builder, optimizer=optimizer,
        loss=loss or LOSSES[task_of(source.labels)], seed=seed,
        engine=engine, view_chunk=view_chunk,
    )  # fmt: skip


def _with_persons(source: ImageSource, persons: Collection[object]) -> ImageSource:
    """The same images, each with its person."""
    if isinstance(persons, str | Set | Mapping) or len(persons) != len(source):
        raise DpmixError(
            f"persons is a {type(persons).__name__} of {len(persons)} for {len(source)} images; "
            "expected a list of one for each image, in their order"
        )
    names = [_person_name(one, place) for place, one in enumerate(persons)]
    if len({*names}) == 1:
        raise DpmixError("all images belong to one person; expected several persons")
    if not isinstance(source, TensorSource):
        raise DpmixError(
            f"persons of a {type(source).__name__} can't be set; give pairs of an image and a "
            "label, or a source that has persons"
        )
    return replace(source, persons=Persons.named(names))


def _person_name(person: object, place: int) -> str:
    """A person's name as text; 7, 7.0 and a tensor of 7 are one person."""
    value = np.asarray(person) if isinstance(person, Tensor) else person
    if isinstance(value, np.ndarray | np.generic) and np.size(value) == 1:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    name = plain_name(str(value)).strip() if isinstance(value, str | int) else ""
    if not name:
        raise DpmixError(
            f"the person of image {place} is {person!r:.40}; expected a name or a whole number"
        )
    return name


def _source(
    model: nn.Module, dataset: PairDataset | ImageSource, value_range: Range | None, task: Task
) -> ImageSource:
    """The dataset as a source with one class for each of the model's outputs."""
    if not isinstance(dataset, ImageSource):
        pixels, labels = read_images(dataset, value_range, task)
        outputs = _outputs(model, tuple(pixels.shape[1:]), labels)
        return TensorSource(pixels, labels, tuple(str(label) for label in range(outputs)))
    outputs, classes = _outputs(model, dataset.image_shape, dataset.labels), dataset.class_names
    if outputs != len(classes):
        raise DpmixError(
            f"the model has {outputs} outputs and the dataset {len(classes)} class names; expected "
            f"one output for each (nn.Linear(D, {len(classes)}))"
        )
    return dataset


def _outputs(model: nn.Module, image_shape: tuple[int, ...], labels: Int64[Tensor, "N *L"]) -> int:
    """How many outputs the model has; labels without one are refused."""
    check_private(model)  # by the types of its layers, before it runs
    outputs = number_of_classes(model, image_shape)
    if task_of(labels) == "multi-label":
        if labels.shape[1] != outputs:
            raise DpmixError(
                f"the model has {outputs} outputs and each image has {labels.shape[1]} labels; "
                f"expected one output for each label (nn.Linear(D, {labels.shape[1]}))"
            )
        return outputs
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise DpmixError(
            f"a label of the dataset is {low}; expected classes numbered from 0: leave such images "
            "out, with torch.utils.data.Subset"
        )
    if outputs == 1 and high <= 1:
        raise DpmixError(
            "the model has one output and the labels are 0 and 1: give it two outputs "
            "(nn.Linear(D, 2)), or return torch.cat([torch.zeros_like(z), z], 1)"
        )
    if high >= outputs:
        from_one = low >= 1 and high - low < outputs
        remedy = f"give the model {high + 1} outputs (nn.Linear(D, {high + 1}))"
        raise DpmixError(
            f"label {high} is out of range; expected 0..{outputs - 1}, one for each of the model's "
            f"{outputs} output(s): "
            + (f"the labels start at {low}, so give label - {low}" if from_one else remedy)
        )
    return outputs
