"""A finished run, read back from its folder."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dpmix.assembly.network import build, constants_of, load
from dpmix.config import Config
from dpmix.data import ImageSource, Normalization, load_splits
from dpmix.data.options import Progress
from dpmix.device import choose_device
from dpmix.errors import DpmixError
from dpmix.settings import InputConfig
from dpmix.training.run_folder import RunFolder
from dpmix.training.weights import load_weights


@dataclass(frozen=True)
class SavedRun:
    """A trained model and what is needed to use it.

    Attributes:
        model: averaged weights, in eval mode, on the device asked for.
        config: the run's settings.
        input: image shape and class names.
        normalization: to apply to uint8 images first.
    """

    model: nn.Module
    config: Config
    input: InputConfig
    normalization: Normalization


def load_run(root: Path, device: str = "auto") -> SavedRun:
    """Rebuild the model of the run at `root`.

    Raises:
        DpmixError: not a run's folder, or files that do not fit each other.
    """
    folder = RunFolder(root)
    folder.refuse_if_missing(folder.config)
    saved = rebuild(Config.load(folder.config), folder.config, device)
    load_weights(folder.model, saved.model)
    return saved


def rebuild(config: Config, settings: Path, device: str = "auto") -> SavedRun:
    """The network of a run and its public weights, before those of training are loaded.

    Args:
        config: the run's settings.
        settings: the file that they are from, for messages.
        device: where the model goes.

    Raises:
        DpmixError: settings that no run wrote, or a backbone that is not the run's.
    """
    if config.input is None:
        raise DpmixError(
            f"'{settings}' has no section 'input', so the model can't be rebuilt; expected "
            f"the {settings.name} that the run wrote"
        )
    where, shape = choose_device(device), config.input.image_shape
    backbone = load(config, where)
    if backbone is not None and backbone.weights_sha256 != config.input.backbone_sha256:
        raise DpmixError(
            f"the weights of backbone '{backbone.name}' here are not those that the run of "
            f"'{settings}' was trained on (sha256 {config.input.backbone_sha256}); restore those: "
            f"give {settings.name} their place in backbone_weights"
        )
    model = build(config, shape, len(config.input.class_names), backbone)
    constants = constants_of(config, shape, backbone)
    return SavedRun(model.to(where).eval(), config, config.input, constants)


def test_source(
    saved: SavedRun,
    data: str | None,
    test_fraction: float | None,
    skip_corrupt: bool,
    progress: Progress | None = None,
) -> ImageSource:
    """The test split of `data`, read as the run read its own.

    None is the run's own data: what it was judged on, which can be validation images.

    Raises:
        DpmixError: other classes than the model's, or as `load_splits` raises.
    """
    settings = saved.config.data.model_dump(exclude={"normalization"})
    if data is not None:
        size = saved.input.image_shape[1]
        square = size == saved.input.image_shape[2]
        settings |= {
            "data": data,
            "test_fraction": test_fraction,
            "image_size": size if square else None,
            "channels": saved.input.image_shape[0],
            "validation_fraction": None,
            "train_images": None,
        }
    settings["skip_corrupt"] = skip_corrupt or (data is None and settings["skip_corrupt"])
    try:
        source = load_splits(progress=progress, reading=saved.input.reading, **settings).test
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
