"""The unit of privacy, and what the two training sets that a guarantee compares differ by."""

from typing import Literal

Unit = Literal["image", "person"]
"""The unit of privacy: what is added or removed between neighbouring training sets."""
Neighbours = Literal[
    "add or remove one training example",
    "add or remove one person with all their training images",
]
NEIGHBOURS: dict[Unit, Neighbours] = {
    "image": "add or remove one training example",
    "person": "add or remove one person with all their training images",
}
"""Unit -> what the two training sets that the guarantee compares differ by."""
