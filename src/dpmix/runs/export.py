"""Export a trained model: an ONNX graph, or a folder for the Hugging Face hub.

Guarantees: the privacy statement goes with the model; no exported file names a path of this
machine; an export appears whole or not at all; no pickle is read. A backbone's weights are
downloaded only on request, and are those that the run was trained on, or the model is refused.
"""

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dpmix.errors import DpmixError, nearest, one_line, to_install
from dpmix.files import to_json, write_text
from dpmix.reports.facts import claimed_epsilon
from dpmix.reports.files import ModelFile, RunFiles
from dpmix.reports.statement import read_file
from dpmix.runs.load import SavedRun, load_run
from dpmix.training.answers import probabilities

STATEMENT, CARD = "privacy.json", "MODEL_CARD.md"
FORMATS = {
    "onnx": ("model.onnx", CARD, STATEMENT),
    "hub": ("model.safetensors", "README.md", STATEMENT),
}
"""Name of each format -> the files that it writes."""

_TOLERANCE = 1e-4  # of the largest logit, or of 1

_FIT = (
    "pictures are first turned upright by their orientation tags; other sizes are then scaled "
    "until they cover {size} (bicubic) and cut to their centre, or where width / height differs by "
    "more than a tenth scaled until all is inside, with the border pixels repeated around it"
)

_HUB_CARD = """---
library_name: dpmix
pipeline_tag: image-classification
tags: [differential-privacy, image-classification, dp-mix]
---
{card}
## How to use it

```python
from pathlib import Path

import torch
from dpmix.data import decode_files
from dpmix.runs.export import HubClassifier

model = HubClassifier.from_pretrained("NAME_OR_FOLDER")
files = [Path("photo.png")]
for images in decode_files(files, model.image_shape, window=model.window):  # as in training
    with torch.inference_mode():
        found = model.probabilities(images)
    print([dict(zip(model.class_names, row)) for row in found.tolist()])
```

- {input}
- {output}
- `model.thresholds`: {thresholds}, the probability from which the second of two classes, or each
  label, is answered; null where none was chosen on validation images
"""


class HubClassifier(nn.Module):
    """A trained classifier: uint8 images [B, C, H, W] to logits [B, L]; `class_names` names them.

    `thresholds`, of a run that chose any, are those of `InputConfig`.

    `dpmix.data.decode_files(paths, model.image_shape, window=model.window)` reads files as in
    training.
    """

    def __init__(self, saved: SavedRun) -> None:
        super().__init__()
        self.network = saved.model
        self.normalization = saved.normalization
        self.image_shape = saved.input.image_shape
        self.window = saved.config.data.window
        self.class_names = saved.input.class_names
        self.thresholds = saved.input.thresholds
        self.several_labels = saved.several_labels
        self.eval()

    def forward(self, images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """Return the logits."""
        logits: Tensor = self.network(self.normalization(images))
        return logits

    def probabilities(self, images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """Return the probability of each class, or of each of several labels."""
        return probabilities(self(images), several=self.several_labels)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        download: bool = False,
        backbone_weights: str | None = None,
        **hub: Any,
    ) -> "HubClassifier":
        """Load an exported model.

        Args:
            name_or_folder: an exported folder, or the name of a model on the hub.
            download: whether to download the public weights of a backbone that are missing here.
            backbone_weights: path of a local file or folder with them.
            **hub: arguments of `huggingface_hub.hf_hub_download`, such as `revision`.
        """
        path = Path(name_or_folder, "model.safetensors")
        if not path.parent.is_dir():
            try:
                from huggingface_hub import hf_hub_download
            except ImportError:
                raise DpmixError(
                    f"no folder '{name_or_folder}', and the hub needs the package "
                    f"huggingface_hub: {to_install('export')}"
                ) from None
            path = Path(hf_hub_download(str(name_or_folder), path.name, **hub))
        if not path.is_file():
            raise DpmixError(f"no weights at '{path}'; give a folder of dpmix export --format hub")
        return cls(load_run(path, "cpu", download=download, backbone_weights=backbone_weights))


def export_run(root: Path, form: str, output: Path, overwrite: bool = False) -> str:
    """Write the model of a run into a folder, with its statement and card; return its guarantee.

    Where anything is wrong, `output` is as it was.
    """
    if form not in FORMATS:
        raise DpmixError(f"format is '{form}': {nearest(form, FORMATS)}")
    _refuse_if_taken(output, overwrite)
    files = RunFiles(root)
    files.refuse_if_missing(files.model)
    run = ModelFile(files.model)
    run.check_weights()
    statement, card = run.statement, read_file(files.card).decode(errors="replace")
    if statement.guarantee not in card:
        raise DpmixError(
            f"'{files.card}' does not hold the guarantee of '{files.model}'; restore the card that "
            "the run wrote"
        )
    if not statement.complete:
        warnings.warn(
            f"the run in '{root}' is not complete: this is its model after {statement.steps} of "
            f"{statement.planned_steps} steps; its epsilon is {claimed_epsilon(statement)}",
            stacklevel=2,
        )
    model = HubClassifier(load_run(root, "cpu"))
    about = _described(model) | {"guarantee": statement.guarantee, STATEMENT: run.statement_text}
    with _new_folder(output) as folder:
        write_text(folder / STATEMENT, run.statement_text)
        if form == "onnx":
            _write_onnx(model, about, folder / "model.onnx")
            write_text(folder / CARD, card)
        else:
            shutil.copyfile(files.model, folder / "model.safetensors")
            write_text(folder / "README.md", _HUB_CARD.format(card=card, **about))
    return statement.guarantee


def _described(model: HubClassifier) -> dict[str, str]:
    """What the network takes and gives, for people."""
    channels, height, width = model.image_shape
    fit = _FIT.format(size=f"{height} x {width}")
    if model.window is not None:
        fit = f"grey values of more than 8 bits pass the intensity window {model.window}; {fit}"
    return {
        "class_names": to_json(list(model.class_names), indent=None),
        "input": f"images: uint8 [batch, {channels}, {height}, {width}], "
        f"{'grey' if channels == 1 else 'RGB'}, 0..255, not normalised; {fit}",
        "output": f"logits: float32 [batch, {len(model.class_names)}], in the order of the class "
        "names; no softmax or sigmoid",
        # Text, as all metadata of a graph; "null" where the run chose none.
        "thresholds": to_json(model.thresholds, indent=None),
    }


def _write_onnx(model: HubClassifier, about: dict[str, str], path: Path) -> None:
    """Write `model` as a graph with `about` in its metadata, and check its answers."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise DpmixError(
            f"--format onnx needs the package {error.name}: {to_install('export')}"
        ) from None
    # An exporter takes a dimension of 1 for a constant.
    example = torch.zeros(2, *model.image_shape, dtype=torch.uint8)
    try:
        batch = {0: torch.export.Dim("batch")}
        program = torch.export.export(model, (example,), dynamic_shapes=(batch,))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names files of this machine
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),
        )
        assert written is not None
    # Anything that the network's code or the exporter raises.
    except Exception as error:
        raise DpmixError(
            f"the network can't be exported ({one_line(error)}); use --format hub, which loads it "
            "with dpmix"
        ) from error
    graph = written.model_proto
    graph.doc_string = "\n".join(about[name] for name in ("guarantee", "input", "output"))
    onnx.helper.set_model_props(graph, about)
    onnx.save(graph, path)
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = torch.randint(0, 256, (8, *model.image_shape), dtype=torch.uint8)
    for part in (images, images[:1]):
        with torch.inference_mode():
            expected = model(part)
        (given,) = session.run(["logits"], {"images": part.numpy()})
        difference = float((torch.from_numpy(given) - expected).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
            raise DpmixError(
                f"the graph's logits differ by {difference:.2g} from the run's on {len(part)} "
                "random image(s): nothing was written; use --format hub"
            )


def _refuse_if_taken(output: Path, overwrite: bool) -> None:
    """Refuse a folder that may not be replaced, before any work is done."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise DpmixError(f"output '{output}' exists; give another --output, or --overwrite")
    own = {name for names in FORMATS.values() for name in names}
    if not output.is_dir() or not {path.name for path in output.iterdir()} <= own:
        raise DpmixError(
            f"--overwrite replaces an earlier export, but '{output}' holds something else; give "
            "another --output"
        )


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder to write into, and rename it to `output` afterwards."""
    aside = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        aside.mkdir(parents=True)
        yield aside
        old = aside.with_suffix(".old")
        if output.exists():
            output.replace(old)
        aside.replace(output)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise DpmixError(
            f"cannot write '{output}': {error.strerror or error}; check the folder and the space, "
            "or give another --output"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
