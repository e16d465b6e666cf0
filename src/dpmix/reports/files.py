"""The files of a run: their names, and `model.safetensors`, which holds the guarantee too.

The header of `model.safetensors` holds the privacy statement and the settings, without a path, next
to the weights that they are about. So one rename publishes all three, and the file can be checked
on its own (`dpmix verify`). `privacy.json` and `config.yaml` are copies to read.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from dpmix.errors import DpmixError
from dpmix.reports.statement import Statement, parse_statement, statement_text

_STATEMENT, _SETTINGS = "privacy.json", "config.yaml"


class RunFiles:
    """Where the files of a run lie.

    `diagnostics/` holds what was computed from private data without noise; everything else may be
    handed out. `checkpoints/` exists until the run is complete.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model.safetensors"
        self.config = root / _SETTINGS
        self.privacy = root / _STATEMENT
        self.metrics = root / "metrics.json"
        self.card = root / "MODEL_CARD.md"
        self.report = root / "report.html"
        self.audit = root / "audit.json"
        self.checkpoints = root / "checkpoints"
        self.diagnostics = root / "diagnostics"
        self.private_log = self.diagnostics / "steps.jsonl"
        self.data_hash = self.diagnostics / "data.sha256"

    @property
    def published(self) -> list[Path]:
        """What a run publishes, the weights first."""
        return [self.model, self.config, self.privacy, self.metrics, self.card, self.report]

    def refuse_if_missing(self, needed: Path) -> None:
        """Refuse a folder without the file `needed`, which a run writes with its first model."""
        if needed.is_file():
            return
        if self.checkpoints.is_dir():
            raise DpmixError(
                f"the run in '{self.root}' was stopped before its first evaluation and has no "
                f"model yet; resume it: dpmix train --resume {self.root}"
            )
        there = f"it has no {needed.name}" if self.root.exists() else "there is no such folder"
        raise DpmixError(f"'{self.root}' is no run folder: {there}; give a run's folder")


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hash of the names, types, shapes and values of a state dict."""
    digest = sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def parse_settings(text: str | bytes, source: Path) -> dict[str, Any]:
    """Settings from YAML."""
    try:
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # a number or a tree that is too large
        settings = None
    if not isinstance(settings, dict):
        raise DpmixError(f"the settings in '{source}' are not those that a run wrote; restore them")
    return settings


def model_bytes(weights: Mapping[str, Tensor], statement: Statement, settings: str) -> bytes:
    """Weights, statement and settings as the bytes of a safetensors file."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    data = save(on_cpu, {_STATEMENT: statement_text(statement), _SETTINGS: settings})
    # safetensors writes its metadata in random order; equal models should be equal files.
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


class ModelFile:
    """What the header of a run's `model.safetensors` says; the weights are read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
            self.statement_text, self.settings_text = header[_STATEMENT], header[_SETTINGS]
        except (SafetensorError, OSError, KeyError) as error:
            raise DpmixError(
                f"cannot read the privacy statement of '{path}' ({error}); expected a run's "
                "model.safetensors: restore it"
            ) from None
        self.statement = parse_statement(self.statement_text, path)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The sections of the run's settings, each a mapping of its settings."""
        text = self.settings_text
        self._compare("settings", self.statement.config_sha256, sha256(text.encode()).hexdigest())
        return parse_settings(text, self.path)

    def check_weights(self) -> None:
        """Refuse weights that are not those of the statement."""
        found = weights_sha256(load_file(self.path))
        self._compare("weights", self.statement.weights_sha256, found)

    def _compare(self, what: str, stated: str, found: str) -> None:
        if found != stated:
            raise DpmixError(
                f"the {what} of '{self.path}' have sha256 {found[:16]}..., but its privacy "
                f"statement is about {what} with {stated[:16]}...: do not rely on it"
            )
