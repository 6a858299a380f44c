"""The shape of the code: small files, imports in one direction, no method known outside its own module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from everclip.config.catalogue import option_names

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "everclip"
FILES = sorted(SOURCE.rglob("*.py"))

# A module may import from its own layer's listed neighbours below; packages stand for all their modules.
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "digest": set(),
    "storage": {"errors"},
    "metrics": {"errors"},
    "types": {"metrics", "digest", "errors"},
    "losses": set(),
    "objectives": {"losses", "types", "errors"},
    "evaluation": {"objectives", "metrics", "types", "errors"},
    "data": {"evaluation", "objectives", "types", "digest", "errors", "storage"},
    "backbones": {"types", "digest", "errors"},
    "modules": {"losses", "backbones", "types", "errors"},
    "memory": {"data", "types", "errors"},
    "methods": {"objectives", "modules", "losses", "memory", "backbones", "types", "errors"},
    "runs": {"metrics", "storage", "digest", "errors"},
    "config": {"storage", "digest", "errors"},
    "loggers": {"storage", "errors"},
    "reporting": {"config", "runs", "metrics", "storage", "digest", "errors"},
    "training": {
        "reporting", "loggers", "runs", "metrics", "methods", "data", "types",
        "storage", "digest", "errors",
    },
    "sweeps": {"reporting", "config", "runs", "storage", "digest", "errors"},
    "commands": {
        "training", "sweeps", "reporting", "loggers", "config", "runs", "metrics", "losses", "methods", "modules",
        "backbones", "data", "evaluation", "types", "storage", "digest", "errors",
    },
}  # fmt: skip


def layer(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Layers that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module] if node.module != "everclip" else [f"everclip.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in modules if name.startswith("everclip.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    if path.name == "__init__.py" and path.parent == SOURCE:
        return
    own = layer(path)
    assert imported(path) - {own} - BELOW[own] == set()


def test_layers_have_no_cycle() -> None:
    order: list[str] = []
    while len(order) < len(BELOW):
        ready = [name for name, below in BELOW.items() if name not in order and below & set(BELOW) <= set(order)]
        assert ready, "the allowed imports form a cycle"
        order += ready


def test_one_method_never_imports_another() -> None:
    for path in (SOURCE / "methods").glob("*.py"):
        names = [
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("everclip.methods.")
        ]
        assert set(names) <= {"everclip.methods.base", "everclip.methods.families"}, path.name


def test_the_core_knows_no_method_by_name() -> None:
    methods = option_names("method")
    for path in FILES:
        if layer(path) == "methods":
            continue
        words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        # Of data, it names the split and the draw of shots that its authors have published.
        assert not words & set(methods) - ({"coop"} if layer(path) == "data" else set()), path.name


@pytest.mark.parametrize("folder", ["src", "tests", "scripts"])
def test_files_stay_short(folder: str) -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {path: count for path, count in lengths.items() if count > 400} == {}


def test_every_method_has_module_config_and_test() -> None:
    modules = {path.stem for path in (SOURCE / "methods").glob("*.py")} - {"__init__", "base", "families"}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "methods").glob("test_*.py")}
    assert modules == set(option_names("method"))
    assert modules <= tests
