"""Views of a step, drawn from those that are embedded: K of M for each example."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dpmix.data.persons import Persons
from dpmix.data.source import ImageSource, persons_of, task_of
from dpmix.errors import DpmixError
from dpmix.views.builder import ViewSet
from dpmix.views.labels import soft_labels
from dpmix.views.spec import ViewSpec, kinds


@dataclass(frozen=True, eq=False)
class CachedViews:
    """A `ViewSource` that draws from embedded views.

    Attributes:
        spec: the method, with K views.
        cached: the same method with M views.
        num_classes: number of classes, L.
        features: embedded views, mapped from a file.
        soft_labels: the views' labels; None if they have their example's label.
        labels: class index of each image, or its labels.
        persons: who each image belongs to, where examples are persons.
    """

    spec: ViewSpec
    cached: ViewSpec
    num_classes: int
    features: Float[Tensor, "N M D"]
    soft_labels: Float[Tensor, "N M L"] | None
    labels: Int64[Tensor, "I *L"]
    persons: Persons | None = None

    def view_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """The shape of one embedded view, [D]."""
        return (self.features.shape[2],)

    def check_data(self, data: ImageSource) -> None:
        """Refuse data with other labels or persons than those of the data that was embedded."""
        same = torch.equal(data.labels, self.labels)
        if self.persons is not None:
            same = same and torch.equal(persons_of(data).owner, self.persons.owner)
        if not same:
            raise DpmixError(
                "the feature cache holds examples with other labels; make it from the same data"
            )

    def sample(
        self,
        data: ImageSource,
        examples: Int64[Tensor, " B"],
        rng: np.random.Generator,
        device: torch.device,
    ) -> ViewSet:
        """Draw K of the M views of each example without replacement, a fixed number of each kind.

        `data` is not read: the features were made from it.
        """
        chosen = self._chosen(len(examples), rng)
        rows = (examples[:, None] * self.features.shape[1] + chosen).flatten()
        shape = (len(examples), self.spec.views, -1)
        features = self.features.flatten(0, 1).index_select(0, rows).to(device).float()
        if self.soft_labels is None:
            own = soft_labels(self.labels[examples].to(device), self.num_classes)
            return ViewSet(features.view(shape), own[:, None].expand(-1, self.spec.views, -1))
        soft = self.soft_labels.flatten(0, 1).index_select(0, rows).to(device).float()
        if task_of(self.labels) == "single-label":
            # In half precision their sum differs from one by up to a thousandth.
            soft = soft / soft.sum(dim=1, keepdim=True)
        return ViewSet(features.view(shape), soft.view(shape))

    def _chosen(self, count: int, rng: np.random.Generator) -> Int64[Tensor, "B K"]:
        parts, start = [], 0
        pairs = zip(kinds(self.spec), kinds(self.cached), strict=True)
        for kind, (wanted, there) in enumerate(pairs):
            order = np.broadcast_to(np.arange(there), (count, there))
            if wanted < there and kind == 0 and self.spec.unit == "person":
                # Neighbours are of different images, so that a person's images share the views.
                first = rng.integers(0, there, (count, 1))
                order = (first + np.arange(wanted)) % there
            elif wanted < there:
                order = rng.random((count, there)).argpartition(wanted - 1, axis=1)[:, :wanted]
            parts.append(start + order)
            start += there
        return torch.from_numpy(np.concatenate(parts, axis=1))
