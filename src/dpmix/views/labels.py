"""Labels as rows of numbers, which mixup can mix: probabilities of classes, or known labels.

With several labels an image, a row holds 1 or 0 for each label, and NaN where it is unknown. A
mixture therefore knows a label only if both its parts do.

Guarantee: a row is a function of one image's own label(s).
"""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float32, Int64
from torch import Tensor

from dpmix.data.source import UNKNOWN, Task, task_of
from dpmix.pool.class_map import UNLABELLED


def soft_labels(labels: Int64[Tensor, "B *L"], classes: int) -> Float32[Tensor, "B L"]:
    """One row for each image: one-hot where it has a class, or its L labels, NaN if unknown."""
    if task_of(labels) == "multi-label":
        return labels.float().where(labels != UNKNOWN, torch.nan)
    return soft_labels_of_pool(labels, classes, "single-label")


def soft_labels_of_pool(
    folders: Int64[Tensor, "*shape"], classes: int, task: Task
) -> Float32[Tensor, "*shape L"]:
    """A row for each public image, from the class of its folder, or `UNLABELLED`.

    Of several labels, the folder's own is 1 and the others are unknown.
    """
    rows = F.one_hot(folders.clamp(min=0), classes).float()
    if task == "multi-label":
        known = (rows == 1) & (folders != UNLABELLED)[..., None]
        return rows.where(known, torch.nan)
    return rows.where((folders != UNLABELLED)[..., None], 1 / classes)
