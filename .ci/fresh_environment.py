"""Make an environment that holds a wheel and the packages that it declares, and nothing else.

    python .ci/fresh_environment.py WHEEL FOLDER

What `pip install WHEEL` would give in a new environment, without fetching gigabytes of torch again:
the packages are links into the environment that runs this script. Only what the wheel's metadata
asks for, directly or through another package, is linked. So `pip check` there finds a dependency
that is not met, and an import of a package that the wheel does not declare fails.
"""

import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LARGEST = 3_000_000  # bytes


def main(wheel: Path, folder: Path) -> None:
    """Install `wheel` into a new environment in `folder`."""
    if wheel.stat().st_size >= LARGEST:
        sys.exit(f"{wheel} has {wheel.stat().st_size:,} bytes; expected less than {LARGEST:,}")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    declared = site.glob("dp_mix_images-*.dist-info/METADATA")
    link_packages(required_by(next(declared).read_text(encoding="utf-8")), site)
    subprocess.run([*pip, "check"], check=True)


def required_by(metadata: str) -> list[Requirement]:
    """The requirements in a wheel's metadata, those of its extras among them."""
    lines = metadata.split("\n\n", 1)[0].splitlines()
    return [
        Requirement(line.removeprefix("Requires-Dist: "))
        for line in lines
        if line.startswith("Requires-Dist: ")
    ]


def link_packages(wanted: list[Requirement], site: Path) -> None:
    """Link what `wanted` asks for without an extra, and what these packages ask for in turn."""
    left, done = [(need, "") for need in wanted], set()
    while left:
        need, extra = left.pop()
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        package = distribution(need.name)
        for asked in ("", *need.extras):
            if (key := (canonicalize_name(need.name), asked)) in done:
                continue
            done.add(key)
            left += [(Requirement(text), asked) for text in package.requires or ()]
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(package.locate_file(top)).resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
