"""What SLURM says of jobs, and who may take a run folder because of it; `squeue` is a script that answers for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from everclip.errors import LockedError
from everclip.runs.folder import RunFolder
from everclip.runs.slurm_queue import is_over, states, this_start

Answer = Callable[[str], None]
RUNNING, WAITING, GONE = (
    "echo RUNNING",
    "echo PENDING",
    "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
)
SILENT, DEAF = "true", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Makes `squeue` answer in a given way."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def _answer(line: str) -> None:
        (tmp_path / "squeue").write_text(f"#!/usr/bin/env bash\n{line}\n")
        (tmp_path / "squeue").chmod(0o755)

    return _answer


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "5"}, "5/0"),
        ({"SLURM_JOB_ID": "6", "SLURM_ARRAY_JOB_ID": "4", "SLURM_ARRAY_TASK_ID": "1"}, "4_1/0"),
        ({"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "2"}, "5/2"),
    ],
)
def test_a_start_of_a_job_has_a_name(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert this_start() == expected


@pytest.mark.parametrize(
    ("line", "over"), [(RUNNING, False), (WAITING, True), (GONE, True), (SILENT, True), (DEAF, False)]
)
def test_only_what_is_known_to_have_ended_is_over(answer: Answer, line: str, over: bool) -> None:
    answer(line)
    assert is_over("7_1/0") is over
    assert not is_over("")


def test_an_earlier_start_of_the_own_job_is_over(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(RUNNING)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert is_over("7/0")
    assert not is_over("7/1")


def test_without_slurm_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not is_over("7/0")
    assert states() == {}


def test_the_queue_is_read_by_job(answer: Answer) -> None:
    answer("printf '7_1 RUNNING\\n8 PENDING\\n'")
    assert states() == {"7_1": "RUNNING", "8": "PENDING"}


def test_the_lock_of_a_job_that_is_over_is_taken_over(answer: Answer, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    lock = folder.path / "lock.json"
    lock.write_text(json.dumps({"host": "node7", "pid": 1, "slurm": "7_1/0"}))
    answer(RUNNING)
    with pytest.raises(LockedError, match="in use by process 1 on node7"):
        folder.lock()
    answer(GONE)
    folder.lock()
    assert json.loads(lock.read_text())["pid"] == os.getpid()
