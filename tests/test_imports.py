"""What the core may import: it runs inside other people's environments."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parent.parent / "shira_core"
FILES = sorted(path.relative_to(CORE).as_posix() for path in CORE.rglob("*.py"))
ALLOWED = {"torch", "numpy", "safetensors", *sys.stdlib_module_names}
# Asked for by name when their command runs, with a message that says how to get them.
ON_DEMAND = {
    "cli/compare.py": {"matplotlib"},
    "cli/energy_plot.py": {"matplotlib"},
    "conversion/lycoris.py": {"lycoris"},
    "integrations/hub/client.py": {"huggingface_hub"},
    "integrations/hub/pictures.py": {"PIL"},
    "cli/reference.py": {"trainer_ui"},
    "cli/train.py": {"trainer_ui"},
    "cli/trainer.py": {"trainer_ui"},
}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


@pytest.mark.parametrize("name", FILES)
def test_the_core_imports_torch_numpy_and_safetensors_only(name: str) -> None:
    tree = ast.parse((CORE / name).read_text(encoding="utf-8"))
    packages = {module.partition(".")[0] for module in imported(tree)}
    assert packages <= ALLOWED | ON_DEMAND.get(name, set())
    top = {
        package
        for node in tree.body
        for package in (module.partition(".")[0] for module in imported(node))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert top <= ALLOWED
