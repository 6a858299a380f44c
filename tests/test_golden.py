"""The small embedded run of every method, held to recorded numbers; `make golden` records them anew.

They hold on every processor, because the runs are too short for rounding to grow: two steps in each session for most
methods. Largest differences from the recorded losses under `ATEN_CPU_CAPABILITY=default`, the same with
`MKL_CBWR=COMPATIBLE` and `ONEDNN_MAX_CPU_ISA=SSE41`, and `MKL_CBWR=AVX2`, relative where a loss is above 0.01: codyra
5e-5 (1.4e-4 absolute), er 3e-5, icarl, joint and zscl 2e-5, lwf 8e-6 (7e-5 absolute), all others below 1e-5; not one
picture tipped over. The tolerance is seven times the largest absolute difference. `make golden-portable` measures
again. Longer runs do amplify (lwf differed by 2e-3 to 7e-2 over three sessions).
"""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from everclip.runs.folder import RunFolder
from tests.correct import correct
from tests.trained import Trained

GOLDEN = Path(__file__).parent / "golden"
RELATIVE = ABSOLUTE = 1e-3
PICTURES = 1  # of a task, which may tip over where another processor rounds differently


def figures(folder: RunFolder) -> dict[str, Any]:
    """Correctly classified pictures per session and task, and the losses of each session's steps."""
    records = folder.read_sessions()
    ends = list(accumulate(record["train_steps"] for record in records))
    losses: list[dict[str, list[float]]] = [{} for _ in records]
    for line in (folder.path / "train.csv").read_text().splitlines()[1:]:
        step, name, value = line.split(",")
        group, _, term = name.partition("/")
        if group == "train" and term in records[0]["losses"] | records[-1]["losses"]:
            session = next(index for index, end in enumerate(ends) if int(step) <= end)
            losses[session].setdefault(term, []).append(float(value))
    return {"correct": [[correct(task) for task in record["tasks"]] for record in records], "losses": losses}


def test_figures_are_the_recorded_ones(trained: Trained, request: pytest.FixtureRequest) -> None:
    obtained, path = figures(trained.folder), GOLDEN / f"{trained.name}.json"
    if request.config.getoption("--remake-golden"):
        path.write_text(json.dumps(obtained, indent=1) + "\n")
    if not path.is_file():
        pytest.skip(f"no figures of {trained.name} are recorded; `make golden` does")
    expected = json.loads(path.read_text())
    for ours, theirs in zip(obtained["correct"], expected["correct"], strict=True):
        assert all(abs(a - b) <= PICTURES for a, b in zip(ours, theirs, strict=True)), (ours, theirs)
    for ours, theirs in zip(obtained["losses"], expected["losses"], strict=True):
        assert {term: len(values) for term, values in ours.items()} == {term: len(v) for term, v in theirs.items()}
        for term, values in ours.items():
            assert values == pytest.approx(theirs[term], rel=RELATIVE, abs=ABSOLUTE), term
