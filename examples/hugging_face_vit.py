"""A private image classifier of transformers: train it, save it, load it as a pipeline.

    pip install 'dp-mix-images[examples]'
    python examples/hugging_face_vit.py

The network is a small ViT with random weights, so that nothing is fetched, and it learns little in
so few private steps: about 50 % of the digits (one run; minutes on two CPU cores). To start from a
pretrained one, give its name to `AutoModelForImageClassification.from_pretrained` with your
`num_labels`, freeze all but its classifier, and take size, mean and standard deviation from its
image processor.
"""

import argparse

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

import dpmix
from dpmix.data import TensorSource, load_splits


class Logits(nn.Module):
    """What a private step needs of a transformers model: a tensor in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


def pairs(source: TensorSource) -> list[tuple[Image.Image, int]]:
    """What any dataset of images gives: here the built-in digits, in RGB."""
    images = source.pixels.permute(0, 2, 3, 1).numpy()
    return [
        (Image.fromarray(image), label)
        for image, label in zip(images, source.labels.tolist(), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--folder", default="runs/hugging-face")
    settings = parser.parse_args()

    # Pairs of one size; of a `datasets.Dataset`: [(row["image"], row["label"]) for row in dataset].
    digits = load_splits("mnist5k", channels=3)
    train_set, test_set = (
        pairs(source)[: settings.images] for source in (digits.train, digits.test)
    )
    names = dict(enumerate(digits.train.class_names))
    config = ViTConfig(
        image_size=28, patch_size=7, hidden_size=64, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=4, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, attn_implementation="eager", id2label=names,
        label2id={name: label for label, name in names.items()},
    )  # fmt: skip
    model = ViTForImageClassification(config)

    plan = dpmix.PrivacyPlan.calibrate(
        n=len(train_set),
        expected_batch_size=len(train_set) / 10,
        steps=settings.steps,
        epsilon=3,
        delta=1e-5,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=plan.steps)
    private = dpmix.make_private(
        Logits(model),
        optimizer,
        train_set,
        plan=plan,
        views=dpmix.ViewSpec("mix-self", k_base=4, k_self=4, crop_padding=1, flip=False),
        normalization="half",
    )
    for _ in range(plan.steps):
        private.step()  # what it returns is private: log none of it
        schedule.step()

    model.eval().save_pretrained(settings.folder)
    processor = ViTImageProcessor(size={"height": 28, "width": 28})  # mean and std are 0.5
    processor.save_pretrained(settings.folder)

    classify = pipeline("image-classification", model=settings.folder)
    answers = [classify(image, top_k=1)[0]["label"] == names[label] for image, label in test_set]
    print(f"test accuracy {sum(answers) / len(answers):.2%} of {len(answers)} images")
    print(f"epsilon {plan.epsilon:.3f}, delta {plan.delta}")


if __name__ == "__main__":
    main()
