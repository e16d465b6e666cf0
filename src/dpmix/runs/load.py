"""A finished run, read back from its folder."""

from pathlib import Path
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from dpmix.errors import DpmixError
from dpmix.models.head import public_names
from dataclasses import dataclass
from pathlib import Path
from torch import nn
from dpmix.runs.build import build, choose_device, constants_of, load_backbone_of
from dpmix.runs.config import Config
from dpmix.data.source import ImageSource
from dpmix.data.normalization import Normalization
from dpmix.data.named import load_splits
from dpmix.data.image import Progress
from dpmix.errors import DpmixError
from dpmix.runs.settings import InputConfig
from dpmix.runs.folder import RunFolder



# Model weights on disk, and rebuilding the model that they belong to.


def weight_bytes(weights: dict[str, Tensor]) -> bytes:
    """A state dict as the bytes of a safetensors file."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return save(on_cpu, metadata={"format": "pt"})


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill `model` with the weights at `path`; a public backbone keeps its own.

    Raises:
        DpmixError: no such file, not safetensors, or weights of another model, or some that
            are not finite.
    """
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
    backbone = load_backbone_of(config, where)
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
