"""What the commands import: whoever asks for a list or for a stored result does not wait for torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from everclip.runs.folder import RunFolder
from tests.conftest import SMALL

# The modules of other packages that take longest, most of which torch itself takes along.
SLOW = (
    "torch", "torchvision", "open_clip", "timm", "transformers", "lightning", "torchmetrics", "wandb", "tensorboard",
    "matplotlib", "scipy", "sympy", "optuna",
)  # fmt: skip

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


@pytest.fixture(scope="module")
def calls(finished: Callable[..., RunFolder]) -> dict[str, tuple[str, list[str]]]:
    """What each call says, and the slow modules that it or one before it has imported."""
    run = finished("method=zero_shot")
    again = (*SMALL, "method=zero_shot", f"hydra.run.dir={run.path}")
    made = {
        "help": ("run", "--help"),
        "cfg": ("run", "--cfg=job"),
        "info": ("run", "--info=defaults"),
        "finished": ("run", *again),
        "status": ("status", str(run.path.parent)),
        "diff": ("diff", str(run.path), str(run.path)),
        "table": ("table", "fscil_cub200", "seed=0", "--runs", str(run.path)),
        "report": ("report", "--help"),
        "data": ("data", "status", "--root", str(run.path)),
        **{kind: ("list", kind) for kind in ("tables", "sequences", "backbones", "methods")},
        "data of a run": ("origin",),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([SLOW, list(made.values())])],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=True,
    )
    return dict(zip(made, map(json.loads, done.stdout.splitlines()), strict=True))


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
