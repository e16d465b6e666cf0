"""Load a trained model from its run, and the images to evaluate it on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dpmix.data.folder import local_path
from dpmix.data.image import Progress, ReadOptions
from dpmix.data.named import load_images, load_splits
from dpmix.data.normalization import Normalization
from dpmix.data.source import ImageSource
from dpmix.data.subgroups import load_subgroups
from dpmix.data.window import parse_window
from dpmix.errors import DpmixError
from dpmix.models.head import public_names
from dpmix.reports.facts import RunFacts
from dpmix.reports.files import ModelFile, RunFiles
from dpmix.reports.metrics import read_metrics
from dpmix.reports.statement import read_statement
from dpmix.runs.config import Config
from dpmix.runs.network import build_network, choose_device, constants_of, load_backbone_of
from dpmix.runs.settings import InputConfig
from dpmix.training.evaluate import InFull


@dataclass(frozen=True)
class SavedRun:
    """A trained model, in eval mode, and what is needed to use it."""

    model: nn.Module
    config: Config
    input: InputConfig
    normalization: Normalization

    @property
    def several_labels(self) -> bool:
        """Whether an image can have several labels, each with its own probability."""
        return self.config.data.task == "multi-label"


def load_run(path: Path, device: str = "auto", **settings: Any) -> SavedRun:
    """Rebuild the model of a run.

    Args:
        path: the run's folder, or its `model.safetensors` alone.
        device: where the model goes: auto, cpu, cuda, cuda:1, mps.
        **settings: new values of settings that say where a backbone's weights are.
    """
    files = RunFiles(path)
    if path.is_file():
        model, config = path, Config.from_tree(ModelFile(path).settings, **settings)
    else:
        files.refuse_if_missing(files.config)
        model, config = files.model, Config.load(files.config, **settings)
    input, where = _input(config, path), choose_device(device)
    backbone = load_backbone_of(config, where)
    if backbone is not None and backbone.weights_sha256 != input.backbone_sha256:
        raise DpmixError(
            f"the weights of backbone '{backbone.name}' here are not those that the run of "
            f"'{path}' was trained on (sha256 {input.backbone_sha256}); restore those, and set "
            "backbone_weights to their path"
        )
    network = build_network(config, input.image_shape, len(input.class_names), backbone)
    constants = constants_of(config, input.image_shape, backbone)
    load_weights(model, network)
    return SavedRun(network.to(where).eval(), config, input, constants)


def _input(config: Config, path: Path) -> InputConfig:
    if config.input is None:
        raise DpmixError(
            f"the run '{path}' has no section 'input' in its settings; expected those that the run "
            "wrote: restore them"
        )
    return config.input


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill `model` with the weights at `path`; a public backbone keeps its own."""
    try:
        own = {name: model.state_dict()[name] for name in public_names(model)}
        weights = load_file(path)
        model.load_state_dict(weights | own)
    except FileNotFoundError:
        raise DpmixError(f"no weights at '{path}'; give the folder of a finished run") from None
    except (SafetensorError, OSError) as error:
        raise DpmixError(f"cannot read weights '{path}': {error}; the file is damaged") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DpmixError(f"weights '{path}' do not fit the model of the run: {reason}") from None
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise DpmixError(
                f"weights '{path}' are not finite ('{name}'): the training diverged, and the model "
                "would answer at random; train again with a lower learning rate"
            )


def read_facts(folder: RunFiles) -> RunFacts:
    """Read the public files of a run, and nothing of its diagnostics."""
    folder.refuse_if_missing(folder.privacy)
    statement = read_statement(folder.privacy)
    config = Config.load(folder.config)
    _input(config, folder.root)
    return RunFacts(config.model_dump(mode="json"), statement, read_metrics(folder.metrics))


def evaluation_images(
    saved: SavedRun,
    data: str | None,
    test_fraction: float | None,
    labels: str | None,
    skip_corrupt: bool,
    progress: Progress | None = None,
) -> ImageSource:
    """The images to evaluate a model on, read as in its training.

    Of the run's own data, the split that the run was evaluated on; where they are given again, the
    test split. Of other `data` the test split, or all images of a folder without training images.
    """
    own, settings = saved.config.data, saved.config.data.reading()
    if data is not None:
        channels, height, width = saved.input.image_shape
        again = _is_same(data, own.data)  # its training images are not to be measured on
        settings |= {
            "data": data,
            "test_fraction": test_fraction or (own.test_fraction if again else None),
            "image_size": height if height == width else None,
            "channels": channels,
            "validation_fraction": None,
            "train_images": None,
        }
        if not again:
            settings |= {"persons": None}
    settings["labels"] = labels or settings["labels"]
    settings["skip_corrupt"] = skip_corrupt or (data is None and settings["skip_corrupt"])
    try:
        source = None
        if data is not None and not again and test_fraction is None:
            options = ReadOptions(
                settings["image_size"], settings["channels"], settings["skip_corrupt"],
                settings["workers"], progress, parse_window(own.window),
            )  # fmt: skip
            source = load_images(data, options, settings["labels"], own.label_columns)
        source = load_splits(progress=progress, **settings).test if source is None else source
    except DpmixError as error:
        if data is not None:
            raise
        raise DpmixError(f"the run's own data: {error}; or give other --data") from None
    if source.class_names != saved.input.class_names:
        raise DpmixError(
            f"the data has classes {', '.join(source.class_names)} but the model was trained on "
            f"{', '.join(saved.input.class_names)}; expected the same"
        )
    return source


def _is_same(data: str, own: str) -> bool:
    """Whether two settings name the same data."""
    if data == own:
        return True
    one, other = local_path(data), local_path(own)
    return one.exists() and other.exists() and one.samefile(other)


def evaluation_in_full(
    saved: SavedRun, data: str | None, subgroups: str | None, source: ImageSource
) -> InFull:
    """What to measure on the `source` that `evaluation_images` gave for `data`.

    Decisions are measured at the thresholds of the run, if it has any; the groups are those of
    `subgroups`, or of the run's own list where the data are its own.
    """
    own = saved.config.data
    listed = own.subgroups if data is None and subgroups is None else subgroups
    thresholds = saved.input.thresholds
    return InFull(
        chosen_here=thresholds is not None and data is None and own.judged_on == "validation",
        thresholds=thresholds,
        groups=load_subgroups(listed, data or own.data, source),
    )
