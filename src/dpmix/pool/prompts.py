"""Class names to prompts: all that a diffusion model gets."""

import re
from dataclasses import dataclass
from pathlib import Path

from dpmix.errors import DpmixError, nearest

PLACEHOLDER = "{class}"
_IN_NAMES = r"""[^/\\:\0\n"<>|?*]"""
# By name; `photo` is the paper's.
TEMPLATES: dict[str, str] = {
    "photo": "a photo of a {class}",
    "eurosat": "a satellite image of {class}, seen straight from above",
    "pet": "a photo of a {class}, a pet animal",
    "scene": "a wide photo of a place: {class}",
    "digit": "the digit {class} in black handwriting on white paper",
}


@dataclass(frozen=True)
class PoolClass:
    """A class to draw."""

    name: str  # as in the data set; also the name of its folder
    phrase: str  # the words that stand for it in a prompt

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(?![.\s])" + _IN_NAMES + r"+(?<!\s)", self.name):
            raise DpmixError(
                f"class name '{self.name}' can't name a folder on every system; write 'plain-name: "
                f"{readable(self.name)}' in a --classes-file and map it with --pool-labels"
            )

    def prompt(self, template: str) -> str:
        """The template with the phrase in it."""
        return template.replace(PLACEHOLDER, self.phrase)


def template_text(template: str) -> str:
    """The template of that name, or the text itself."""
    if template in TEMPLATES:
        return TEMPLATES[template]
    if PLACEHOLDER not in template:
        raise DpmixError(
            f"template '{template}' has no {PLACEHOLDER}; expected a text such as 'a photo of a "
            f"{PLACEHOLDER}', or a name: {nearest(template, TEMPLATES)}"
        )
    return template


def readable(name: str) -> str:
    """A class name as words: `AnnualCrop` and `001.annual_crop` are 'annual crop'."""
    words = re.sub(r"^\d+[.\-_]", "", name)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words)
    words = " ".join(re.sub(r"[_/\\]+", " ", words).split())
    return words.lower() if words != name else name


def as_classes(names: tuple[str, ...]) -> tuple[PoolClass, ...]:
    """Classes whose phrases are their names in words."""
    return _checked([PoolClass(name, readable(name)) for name in names], "the class names")


def read_classes(path: Path) -> tuple[PoolClass, ...]:
    """Read a text file with one class on each line: `name`, or `name: phrase`; `#` is a comment."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DpmixError(f"cannot read classes '{path}': {error}; check the path") from None
    cells = [line.partition(":") for line in lines if line.strip() and line.lstrip()[0] != "#"]
    named = [(name.strip(), phrase.strip()) for name, _, phrase in cells]
    return _checked([PoolClass(name, words or readable(name)) for name, words in named], str(path))


def _checked(classes: list[PoolClass], where: str) -> tuple[PoolClass, ...]:
    if not classes:
        raise DpmixError(f"no class in '{where}'; expected at least one name")
    # Folders whose names differ by case only are one folder on some systems.
    names = [one.name.lower() for one in classes]
    if twice := [one.name for one in classes if names.count(one.name.lower()) > 1]:
        raise DpmixError(
            f"'{where}' hold '{twice[0]}' and '{twice[1]}', which name the same folder; expected "
            "names that differ by more than case"
        )
    return tuple(classes)
