"""The command that a run is made again with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everclip.runs.again import command, quoted
from everclip.sweeps.sweep import Job, Sweep

FACTS = {"sequence": "s", "method": "m", "backbone": "b", "digest": "d", "overrides": ["method=m", "x='a b'"]}
ARGV = ["/bin/everclip", "-m", "--config-dir", "my conf", "method=m", "~logger"]


@pytest.mark.parametrize(
    ("folder", "facts", "expected"),
    [
        ("outputs/s/m/b/d/seed0", {}, """everclip method=m 'x='"'"'a b'"'"''"""),
        ("outputs/s/m/b/d/seed0", {"command": ARGV, "overrides": ["a=1"]}, "everclip --config-dir 'my conf' a=1"),
        ("moved/s/m/b/d/seed0", {"overrides": ["paths.outputs=outputs", "a=1"]}, "everclip a=1 paths.outputs=moved"),
        ("o/x", {"overrides": ["restart=true", "a=1", "+force=true"]}, "everclip a=1 hydra.run.dir=o/x"),
        ("o/x", {"overrides": ["a=1"]}, "everclip a=1 hydra.run.dir=o/x"),
        ("/elsewhere/s/m/b/d/seed0", {"overrides": []}, "everclip paths.outputs=/elsewhere"),
        ("/else where/x", {"overrides": []}, """everclip 'hydra.run.dir='"'"'/else where/x'"'"''"""),
    ],
)
def test_a_command_leads_to_the_folder_where_it_is(
    folder: str, facts: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(Path(folder), FACTS | facts) == expected


def test_a_run_that_does_not_tell_has_no_command() -> None:
    assert command(Path("x"), {"state": "failed"}) is None


def test_the_runs_of_moved_outputs_are_where_their_list_is(tmp_path: Path) -> None:
    place = "s/m/b/d/seed0"
    old, new = tmp_path / "old", tmp_path / "new"
    words = ["seed=0", f"paths.outputs={old}", f"hydra.run.dir={old}/{place}"]
    made = Sweep(old, [Job(f"{old}/{place}", words)], "/")
    made.write()
    assert Sweep.read(made.path).jobs == made.jobs
    old.rename(new)
    (job,) = Sweep.read(new / made.path.relative_to(old)).jobs
    assert job.folder == f"{new}/{place}"
    assert Sweep.read(new / made.path.relative_to(old)).jobs == [job]
    assert job.words == ["seed=0", f"paths.outputs={quoted(new)}", f"hydra.run.dir={quoted(new / place)}"]


def test_runs_that_have_not_begun_were_not_moved(tmp_path: Path) -> None:
    """Two places of one sweep, of which only one is there yet."""
    jobs = [Job(f"{tmp_path}/o/on{n}/s/m/b/d/seed0", [f"paths.outputs={tmp_path}/o/on{n}"]) for n in (1, 2)]
    sweep = Sweep(tmp_path / "o" / "on1", jobs, "/")
    sweep.note({1: {"slurm": "7_1"}})
    assert Sweep.read(sweep.path).jobs == sweep.jobs
    again = Sweep(tmp_path / "o" / "on1", jobs, "/")
    again.keep_notes()
    assert [job.slurm for job in again.jobs] == [None, "7_1"]
