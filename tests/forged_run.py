"""A run's model file as a forger would write it, who knows how to seal a statement."""

import json
from hashlib import sha256

import yaml
from safetensors.torch import load_file, save_file

from dpmix.reports.files import ModelFile
from dpmix.reports.statement import seal


def forge(run, settings=None, weights=None, **fields):
    """Change fields of the statement, settings by a function, or weights; return the path."""
    path = run / "model.safetensors"
    model = ModelFile(path)
    text = model.settings_text
    if settings is not None:
        text = yaml.safe_dump(settings(model.settings), sort_keys=False)
        fields["config_sha256"] = sha256(text.encode()).hexdigest()
    statement = json.dumps(seal(json.loads(model.statement_text) | fields))
    header = {"privacy.json": statement, "config.yaml": text}
    save_file(load_file(path) if weights is None else weights, path, metadata=header)
    return path
