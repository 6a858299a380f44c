"""The small embedded run of every method, held to recorded numbers; `make golden` records them anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from everclip.runs.folder import RunFolder
from tests.conftest import METHODS
from tests.correct import correct

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("method", METHODS)
def test_matrix_is_the_recorded_one(
    method: str, whole: Callable[[str], RunFolder], request: pytest.FixtureRequest
) -> None:
    records = whole(method).read_sessions()
    obtained = {
        "correct": [[correct(task) for task in record["tasks"]] for record in records],
        "losses": [record["losses"] for record in records],
    }
    path = GOLDEN / f"{method}.json"
    if request.config.getoption("--remake-golden"):
        path.write_text(json.dumps(obtained, indent=1) + "\n")
    expected = json.loads(path.read_text())
    for ours, theirs in zip(obtained["correct"], expected["correct"], strict=True):
        # One picture per task may tip over where another processor rounds differently.
        assert all(abs(a - b) <= 1 for a, b in zip(ours, theirs, strict=True)), (ours, theirs)
    for ours, theirs in zip(obtained["losses"], expected["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
