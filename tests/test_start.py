"""What the commands import: whoever asks for a list or for a stored result does not wait for torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from everclip.runs.folder import RunFolder
from tests.conftest import SMALL

# The modules of other packages that take longest, most of which torch itself takes along.
SLOW = (
    "torch", "torchvision", "open_clip", "timm", "transformers", "lightning", "torchmetrics", "wandb", "tensorboard",
    "matplotlib", "scipy", "sympy", "optuna",
)  # fmt: skip

# Which take longer than such an answer, by command; to read runs or files needs none of them.
UNASKED = {
    "status": ("hydra", "omegaconf", "pydantic", "numpy", "rich.progress"),
    "list runs": ("hydra", "omegaconf", "pydantic", "rich.progress"),  # whose protocols are written in numpy
    "diff": ("hydra", "omegaconf", "pydantic", "rich.progress"),
    "finished": ("pydantic", "rich.progress"),
    "table": ("hydra", "rich.progress"),  # of rows that have been composed before
    "list": ("hydra", "omegaconf", "pydantic", "numpy", "rich.progress"),
}

# Calls commands one after the other, and says after each what it said and which slow modules were there.
SCRIPT = """
import contextlib, importlib, io, json, sys
slow, calls = json.loads(sys.argv[1])
for name, *words in calls:
    sys.argv, said = [name, *words], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        found = importlib.import_module("everclip.commands." + name)
        if hasattr(found, "main"):
            found.main()
    print(json.dumps([said.getvalue(), [other for other in slow if other in sys.modules]]))
"""


def call(commands: Mapping[str, Sequence[str]], slow: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """What each command says, all in one process, and the slow modules that it or one before it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([slow, list(commands.values())])],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=True,
    )
    return dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def run(finished: Callable[..., RunFolder]) -> RunFolder:
    return finished("method=zero_shot")


@pytest.fixture(scope="module")
def again(run: RunFolder) -> Sequence[str]:
    """The command of a run that is finished."""
    return ("run", *SMALL, "method=zero_shot", f"hydra.run.dir={run.path}")


@pytest.fixture(scope="module")
def calls(run: RunFolder, again: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """What commands that need no model say, and one that looks for data, as `call` gives it."""
    made = {
        "help": ("run", "--help"),
        "cfg": ("run", "--cfg=job"),
        "info": ("run", "--info=defaults"),
        "finished": again,
        "status": ("status", str(run.path.parent)),
        "diff": ("diff", str(run.path), str(run.path)),
        "table": ("table", "fscil_cub200", "seed=0", "--runs", str(run.path)),
        "report": ("report", "--help"),
        "data": ("data", "status", "--root", str(run.path)),
        **{kind: ("list", kind) for kind in ("tables", "sequences", "backbones", "methods")},
        "data of a run": ("origin",),
    }
    return call(made, SLOW)


def test_no_command_that_needs_no_model_imports_torch(calls: dict[str, tuple[str, list[str]]]) -> None:
    *light, _ = calls
    assert [name for name in light if calls[name][1]] == []
    words = {
        "help": "cpe_clip", "cfg": "prompt_length: 2", "info": "method/cpe_clip", "finished": "finished earlier",
        "status": "1 finished", "diff": "No setting differs", "table": "everclip +experiment=", "report": "usage:",
        "data": "cifar100", "tables": "fscil_cub200", "sequences": "shapes_mtil", "backbones": "vit_b16_openai",
        "methods": "low-rank",
    }  # fmt: skip
    assert [name for name in light if words[name] not in calls[name][0]] == []


def test_to_look_for_data_imports_neither_backbones_nor_trainers(calls: dict[str, tuple[str, list[str]]]) -> None:
    # As the command of a sweep does before it starts its runs, and a finished run whose files have another time.
    assert set(calls["data of a run"][1]) <= {"torch", "sympy"}


@pytest.mark.parametrize("name", UNASKED)
def test_an_answer_waits_for_nothing_but_reading(
    name: str, run: RunFolder, again: Sequence[str], cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERCLIP_CACHE", str(cache_dir))
    table = ("table", "fscil_cub200", "seed=0", "--runs", str(run.path))
    commands = {
        "status": (("status", str(run.path.parent)), "1 finished"),
        "list runs": (("list", "runs", str(run.path.parent)), "zero_shot"),
        "diff": (("diff", str(run.path), str(run.path)), "No setting differs"),
        "finished": (again, "finished earlier"),
        "list": (("list",), "cpe_clip"),
        "table": (table, "everclip +experiment="),
    }
    words, answer = commands[name]
    if name == "table":
        call({"composed": table}, ())
    said, imported = call({name: words}, UNASKED[name])[name]
    assert answer in said
    assert imported == []
