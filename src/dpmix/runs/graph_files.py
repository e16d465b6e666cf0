"""`model.pt2`: the network for torch alone, without dpmix, with the statement among its files."""

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export
from dpmix.errors import DpmixError
from dpmix.errors import one_line
from collections.abc import Callable
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from dpmix.data.named import load_splits
from dpmix.data.image import in_form
from dpmix.errors import DpmixError
from pathlib import Path
from typing import Any
import torch
from torch import Tensor
from dpmix.errors import DpmixError
from dpmix.runs.hub_classifier import ImageClassifier
from dpmix.runs.released_run import ReleasedRun
from dpmix.errors import to_install
from dpmix.files import to_json
from pathlib import Path
import torch
from dpmix.runs.hub_classifier import ImageClassifier
from dpmix.runs.released_run import ReleasedRun
from dpmix.files import to_json



# A network as a graph of tensor operations, for any number of images and without its sources.
#
# Guarantee: the graph names no file of this machine, which the exporter would note for every node.


_EXAMPLES = 2  # an exporter takes one for a constant


def traced(model: nn.Module, image_shape: tuple[int, int, int]) -> ExportedProgram:
    """Trace `model`, which takes uint8 [B, *image_shape], with B left open.

    Raises:
        DpmixError: it does what can't be traced.
    """
    images = torch.zeros(_EXAMPLES, *image_shape, dtype=torch.uint8)
    try:
        program = export(model, (images,), dynamic_shapes=({0: Dim("batch")},))
    # Whatever a network's own code raises while it is traced.
    except Exception as error:
        raise not_exportable(error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def not_exportable(error: Exception) -> DpmixError:
    """The error for a network that an exporter can't write."""
    return DpmixError(
        f"the network can't be exported ({one_line(error)}); use --format hub, which loads it with "
        "dpmix"
    )


# The check that a written model answers as the run does, on images that are always there.


IMAGES = 64


TOLERANCE = 1e-4


Answer = Callable[[UInt8[Tensor, "B C H W"]], Float[Tensor, "B L"]]


def public_images(shape: tuple[int, int, int]) -> UInt8[Tensor, "B C H W"]:
    """Some of the built-in digits, in a model's form."""
    digits = load_splits("mnist5k").test.images(torch.arange(IMAGES))
    fitted = [in_form(Image.fromarray(digit[0]), shape) for digit in digits.numpy()]
    return torch.from_numpy(np.stack(fitted))


def largest_difference(model: nn.Module, answer: Answer, images: UInt8[Tensor, "B C H W"]) -> float:
    """How far logits are apart, at most, over all images together and one alone.

    Raises:
        DpmixError: more than `TOLERANCE` of the largest logit, or of one.
    """
    worst = 0.0
    for part in (images, images[:1]):
        with torch.inference_mode():
            expected, given = model(part), answer(part)
        if not expected.isfinite().all():
            raise DpmixError(
                "the run's own answers are not finite: its training diverged; train again with a "
                "lower --learning-rate, and export that"
            )
        difference = float((given - expected).abs().max())
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:
            raise DpmixError(
                f"the exported model's logits differ by {difference:.2g} from the run's on "
                f"{len(part)} digit(s); expected {allowed:.2g} at most: nothing was written; try "
                "another --format"
            )
        worst = max(worst, difference)
    return worst


# `model.onnx`: the network for onnxruntime and its kin, with the statement in its metadata.


NAME_onnx_file = "model.onnx"


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
    model, path = ImageClassifier(run.saved), folder / NAME_onnx_file
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
