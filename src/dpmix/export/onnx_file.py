"""`model.onnx`: the network for onnxruntime and its kin, with the statement in its metadata."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpmix.errors import DpmixError
from dpmix.export.image_classifier import ImageClassifier
from dpmix.export.released_run import ReleasedRun
from dpmix.export.same_answers import largest_difference, public_images
from dpmix.export.traced import not_exportable, traced
from dpmix.extras import to_install
from dpmix.training.json_text import to_json

NAME = "model.onnx"


def write_onnx(run: ReleasedRun, folder: Path) -> float:
    """Write `model.onnx` into `folder`; return how far its logits are from the run's.

    Raises:
        DpmixError: a package is missing, the network can't be exported, or it answers differently.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise DpmixError(
            f"--format onnx needs the package {error.name}: {to_install('export')}"
        ) from None
    model, path = ImageClassifier(run.saved), folder / NAME
    program = traced(model, model.image_shape)
    try:
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),
        )
        assert written is not None
        proto = written.model_proto
    # Whatever the exporter raises for an operation that it does not know.
    except Exception as error:
        raise not_exportable(error) from error
    proto.doc_string = f"{run.statement.guarantee}\n{run.input}\n{run.output}"
    onnx.helper.set_model_props(proto, _properties(run))
    onnx.save(proto, path)
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return largest_difference(model, _answers(session), public_images(model.image_shape))


def _properties(run: ReleasedRun) -> dict[str, str]:
    return {
        "guarantee": run.statement.guarantee,
        "privacy.json": run.statement_text,
        "class_names": to_json(list(run.saved.input.class_names), indent=None),
        "input": run.input,
        "output": run.output,
    }


def _answers(session: Any) -> Any:
    def answer(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return answer
