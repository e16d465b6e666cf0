"""`model.pt2`: the network for torch alone, without dpmix, with the statement among its files."""

from pathlib import Path

import torch

from dpmix.export.image_classifier import ImageClassifier
from dpmix.export.released_run import ReleasedRun
from dpmix.export.same_answers import largest_difference, public_images
from dpmix.export.traced import traced
from dpmix.training.json_text import to_json

NAME = "model.pt2"


def write_torch_export(run: ReleasedRun, folder: Path) -> float:
    """Write `model.pt2` into `folder`; return how far its logits are from the run's.

    TorchScript is deprecated in favour of this.

    Raises:
        DpmixError: the network can't be exported, or it answers differently.
    """
    model, path = ImageClassifier(run.saved), folder / NAME
    extra = {
        "privacy.json": run.statement_text,
        "class_names.json": to_json(list(model.class_names)),
        "README.txt": f"{run.statement.guarantee}\n{run.input}\n{run.output}\n",
    }
    # A tensor in another layout is taken for a part of one, with a warning.
    model.to(memory_format=torch.contiguous_format)
    torch.export.save(traced(model, model.image_shape), path, extra_files=extra)
    written = torch.export.load(path).module()
    return largest_difference(model, written, public_images(model.image_shape))
