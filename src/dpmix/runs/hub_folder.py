"""A folder for the Hugging Face hub: card, statement, settings without paths, and the weights.

Guarantees: the weights are the run's own file, to the hash that its statement gives; there is no
pickle; of the settings there is what rebuilds the network and nothing else.
"""

from pathlib import Path
from typing import Any
import yaml
from dpmix.files import write_text
from dpmix.runs.config import Config
from dpmix.errors import DpmixError
from dpmix.runs.hub_classifier import ImageClassifier
from dpmix.runs.released_run import ReleasedRun
from dpmix.runs.graph_files import largest_difference
from dpmix.runs.graph_files import public_images
from dpmix.errors import to_install
from dpmix.files import to_json



_USE = """
## How to use it

```python
from pathlib import Path

import torch
from dpmix.data import decode_files
from dpmix.runs.hub_classifier import HubClassifier

model = HubClassifier.from_pretrained("NAME_OR_FOLDER")
files = [Path("photo.png")]
for images in decode_files(files, model.image_shape, model.reading):  # pictures, as in training
    with torch.inference_mode():
        logits = model(images)
    print([model.class_names[i] for i in logits.argmax(dim=1)])
```

- {input}
- {output}
"""


def write_hub_folder(run: ReleasedRun, folder: Path) -> float:
    """Fill `folder`; return how far the logits of what is loaded from it are from the run's.

    Raises:
        DpmixError: huggingface_hub is missing, or what is loaded answers differently.
    """
    try:
        from dpmix.runs.hub_classifier import HubClassifier
    except ImportError as error:
        raise DpmixError(
            f"--format hub needs the package {error.name}: {to_install('export')}"
        ) from None
    config = run.saved.config
    (folder / "model.safetensors").write_bytes(run.weights)
    write_text(folder / "config.json", to_json({"settings": network_settings(config)}))
    use = _USE.format(input=run.input, output=run.output)
    write_text(folder / "README.md", _header() + run.card + use)
    weights = config.model.backbone_weights
    written = HubClassifier.from_pretrained(folder, backbone_weights=weights)
    images = public_images(written.image_shape)
    return largest_difference(ImageClassifier(run.saved), written, images)


def network_settings(config: Config) -> dict[str, dict[str, Any]]:
    """The settings that rebuild a network, none of which is a place."""
    return {
        "data": {"normalization": config.data.normalization},
        "model": config.model.model_dump(mode="json", exclude={"backbone_weights"}),
        "input": config.input.model_dump(mode="json") if config.input else {},
    }


def _header() -> str:
    """What the hub reads of a card."""
    facts = {
        "library_name": "dpmix",
        "pipeline_tag": "image-classification",
        "tags": ["differential-privacy", "image-classification", "dp-mix"],
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n"
