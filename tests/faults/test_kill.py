"""The short form of `make chaos`: a few runs are broken, each in a process of its own, and come to the same end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def chaos(*words: str) -> dict[str, Any]:
    """Runs the harness; gives what it found."""
    shown = ("sequence.num_classes=6", "sequence.base_classes=4", "max_sessions=2", "sequence.style=cards")
    command = [sys.executable, "-m", "tests.faults.chaos", *words, *shown]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["mismatches"] == []
    return result


def test_killed_runs_end_as_if_they_had_not_been(tmp_path: Path) -> None:
    words = ("method=icarl", "method.memory_size=6")  # has a teacher and kept pictures
    result = chaos("kill", "--kills", "2", "--root", str(tmp_path), *words)
    assert result["hits"] >= 2


def test_a_kill_inside_a_write_changes_nothing(tmp_path: Path) -> None:
    result = chaos("writes", "--every", "17", "--seed", "9", "--root", str(tmp_path))
    assert result["hits"] >= 3


def test_a_stopped_run_saves_and_says_so(tmp_path: Path) -> None:
    result = chaos("stop", "--kills", "2", "--root", str(tmp_path))
    assert result["seconds_to_exit"]["max"] < 60


def test_a_full_disk_stops_a_run_that_then_goes_on(tmp_path: Path) -> None:
    result = chaos("full", "--every", "11", "--seed", "6", "--root", str(tmp_path))
    assert result["hits"] >= 2


def test_a_small_file_system_stops_a_run_that_then_goes_on(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    subprocess.run(["umount", str(tmp_path)], check=True)
    result = chaos("disk", "--rooms=100", "--root", str(tmp_path))
    assert sum(result["failed_at"].values()) == 1
