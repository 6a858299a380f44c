"""The shape of the code: small files, imports in one direction, no method known outside its own module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from everclip.catalogue import option_names

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "everclip"
FILES = sorted(SOURCE.rglob("*.py"))

# A module may import from its own layer's listed neighbours below; packages stand for all their modules.
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "digest": set(),
    "storage": {"errors"},
    "slurm_queue": set(),
    "interruption": {"errors"},
    "metrics": set(),
    "schedules": set(),
    "types": {"digest", "errors"},
    "backbones": {"types", "digest", "errors"},
    "data": {"types", "digest", "errors", "storage"},
    "modules": {"backbones", "types", "errors"},
    "losses": set(),
    "memory": {"data", "types", "errors"},
    "methods": {"modules", "losses", "memory", "backbones", "types", "errors"},
    "run_folder": {"metrics", "slurm_queue", "storage", "digest", "errors"},
    "figures": {"storage"},
    "report": {"figures", "run_folder", "metrics", "storage", "digest"},
    "page": {"report", "figures", "run_folder", "metrics", "console", "storage", "errors"},
    "console": set(),
    "loggers": {"storage"},
    "provenance": set(),
    "phases": {"methods", "data", "schedules", "types", "errors"},
    "engine": {"phases", "methods", "data", "types", "errors"},
    "evaluation": {"engine", "methods", "types", "errors"},
    "checkpoint": {"phases", "methods", "digest", "errors", "storage"},
    "monitor": {"checkpoint", "phases", "console", "loggers", "interruption", "errors"},
    "records": {"evaluation", "methods", "loggers", "run_folder", "types"},
    "runner": {
        "engine", "phases", "evaluation", "checkpoint", "monitor", "records", "report", "run_folder", "loggers",
        "interruption", "methods", "data", "types", "errors",
    },
    "config": {"digest", "errors"},
    "adapted": {"config", "checkpoint", "run_folder", "backbones", "methods", "types", "errors"},
    "catalogue": {"config", "console"},
    "data_command": {"data", "config", "console", "errors"},
    "build": {
        "runner", "engine", "phases", "monitor", "interruption", "adapted", "evaluation", "records", "backbones",
        "data", "methods", "config", "console", "loggers",
        "provenance", "run_folder", "storage", "types", "errors",
    },
    "tables": {"cli", "catalogue", "config", "report", "run_folder", "metrics", "storage", "digest", "errors"},
    "sweeps": {"digest", "errors", "storage"},
    "plans": {"sweeps", "storage"},
    "planning": {
        "build", "plans", "runner", "engine", "phases", "monitor", "interruption", "loggers", "methods", "config",
        "console", "run_folder", "types",
    },
    "launchers": {"sweeps", "report", "run_folder", "errors"},
    "slurm": {"sweeps", "launchers", "slurm_queue", "storage", "errors"},
    "status": {"sweeps", "launchers", "slurm", "slurm_queue", "run_folder", "console", "errors"},
    "cli": {"launchers", "build", "planning", "config", "console", "report", "run_folder", "interruption", "errors"},
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
        assert set(names) <= {"everclip.methods.base"}, path.name


def test_the_core_knows_no_method_by_name() -> None:
    methods = option_names("method")
    for path in FILES:
        if layer(path) == "methods":
            continue
        words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not words & set(methods), path.name


@pytest.mark.parametrize("folder", ["src", "tests", "scripts"])
def test_files_stay_short(folder: str) -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {path: count for path, count in lengths.items() if count > 400} == {}


def test_every_method_has_module_config_and_test() -> None:
    modules = {path.stem for path in (SOURCE / "methods").glob("*.py")} - {"__init__", "base"}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "methods").glob("test_*.py")}
    assert modules == set(option_names("method"))
    assert modules <= tests
