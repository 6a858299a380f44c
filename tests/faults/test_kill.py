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
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kill")]


def chaos(*words: str) -> dict[str, Any]:
    """Runs the harness; gives what it found."""
    shown = ("sequence.num_classes=6", "sequence.base_classes=4", "max_sessions=2", "sequence.style=cards")
    command = [sys.executable, "-m", "tests.faults.chaos", *words, *shown]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode in (0, 1), done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["mismatches"] == []
    return result


def can_mount(place: Path) -> bool:
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        return False
    subprocess.run(["umount", str(place)], check=True)
    return True


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the harness found in runs of one command that were broken in every way, by the way."""
    place = tmp_path_factory.mktemp("chaos")
    modes = ["writes", "stop", "full", *(["disk"] if can_mount(place) else [])]
    words = ("--kills=2", "--every=11", "--seed=9", "--turns", "--rooms=100", f"--root={place}")
    return chaos(",".join(modes), *words)


def test_killed_runs_end_as_if_they_had_not_been(tmp_path: Path) -> None:
    words = ("method=icarl", "method.memory_size=6")  # has a teacher and kept pictures
    result = chaos("kill", "--kills", "2", "--root", str(tmp_path), *words)
    assert result["kill"]["hits"] >= 2


def test_a_kill_inside_a_write_changes_nothing(found: dict[str, Any]) -> None:
    assert {place.partition(" ")[0] for place in found["writes"]["places"]} == {"half", "before", "after"}


def test_a_stopped_run_saves_and_says_so(found: dict[str, Any]) -> None:
    assert found["stop"]["hits"] >= 2
    assert found["stop"]["seconds_to_exit"]["max"] < 60


def test_a_full_disk_stops_a_run_that_then_goes_on(found: dict[str, Any]) -> None:
    assert found["full"]["hits"] >= 2


def test_a_small_file_system_stops_a_run_that_then_goes_on(found: dict[str, Any]) -> None:
    if "disk" not in found:
        pytest.skip("mounting a small file system is not permitted here")
    assert sum(found["disk"]["failed_at"].values()) == 1
