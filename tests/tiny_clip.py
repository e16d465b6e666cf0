"""A tiny open_clip model with both towers, trained on handwritten digits and captions of words."""

import json
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812

NAME = "dpmix-tiny-two-towers"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 28, "patch_size": 7, "width": 64, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 1},
}


def register(folder: Path) -> None:
    """Make the network known to open_clip by its name, as its own networks are."""
    path = folder / f"{NAME}.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)


def train_and_save(folder: Path, images, labels, steps: int = 300) -> Path:
    """Train both towers on images [N, 3, 28, 28] in 0..1 and their captions; return a folder."""
    torch.manual_seed(0)
    model = open_clip.create_model(NAME, load_weights=False)
    captions = open_clip.get_tokenizer(NAME)([f"a photo of a {word}" for word in WORDS])
    x = (images - 0.5) / 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        some = torch.randint(0, len(x), (64,))
        seen, read, scale = model(x[some], captions)
        F.cross_entropy(scale * seen @ read.T, labels[some]).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder
