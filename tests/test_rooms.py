"""The order of the packages: each imports only itself and those before it."""

import ast
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "dpmix"
ORDER = (
    "errors", "files", "privacy", "data", "models", "clipping", "pool", "views", "training",
    "reports", "runs", "audit", "sweeps", "cli",
)  # fmt: skip
# They need packages of the extra `sweep`, or take seconds to load for an error under torchrun.
OPTIONAL = {"dpmix.sweeps.table", "dpmix.sweeps.plot", "dpmix.training.distributed"}


def imports(tree):
    """(module, whether the import stands inside a function) for each import of dpmix."""
    for node in ast.walk(tree):
        found = (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        yield from (
            (name, node not in tree.body) for name in found if name.split(".")[0] == "dpmix"
        )


def test_nothing_imports_upward_or_inside_a_function():
    assert {path.stem for path in SRC.glob("[a-z]*")} == {*ORDER, "py"}  # and py.typed
    for path in SRC.rglob("*.py"):
        room = path.relative_to(SRC).parts[0].removesuffix(".py")
        for module, inside in imports(ast.parse(path.read_text())):
            if room not in ("__init__", "__main__"):
                assert not inside or module in OPTIONAL, f"{path}: {module} in a function"
                other = module.split(".")[1]
                assert ORDER.index(other) <= ORDER.index(room), f"{path} imports {module}"
