"""What `everclip-status` says of runs in every state."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest

from everclip.commands import watch
from everclip.commands.status import main
from everclip.reporting.console import _Console
from everclip.runs.folder import RunFolder, numbered
from everclip.sweeps.launchers import LocalRuns
from everclip.sweeps.progress import Row, examine, read_sweeps
from everclip.sweeps.slurm import log_path
from everclip.sweeps.sweep import Job, Sweep

START = {"start": "2026-01-02T03:04:05+00:00", "host": "node7", "pid": 7}
HERE = {"host": os.uname().nodename, "pid": os.getpid()}
GONE = {"host": os.uname().nodename, "pid": 2**22 + 1}
SQUEUE = """#!/usr/bin/env bash
if [[ $* == *--me* ]]; then printf '%s' {queue}; fi
"""


def record(index: int, seconds: float = 10.0) -> dict[str, object]:
    return {"index": index, "train_seconds": seconds, "eval_seconds": 0.0, "tasks": []}


def make_run(folder: Path, sessions: int, lock: dict[str, object] | None = None, **facts: object) -> None:
    run = RunFolder(folder)
    run.update_run(sessions=9, **facts)
    run.write_sessions([record(index) for index in range(sessions)], 0)
    if lock is not None:
        (folder / "lock.json").write_text(json.dumps(lock))


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Runs of one setting in every state: by their seeds."""
    jobs = [Job(f"{tmp_path}/shapes/ncm/tiny/abc/seed{seed}", [f"seed={seed}", "a='b c'"]) for seed in range(9)]
    made = Sweep(tmp_path, jobs, "/")
    made.note({5: {"error": "exit 2: no pictures"}, 7: {"slurm": "40_7"}, 8: {"slurm": "40_8"}})
    folders = [Path(job.folder) for job in jobs]
    make_run(folders[0], 9, state="finished", attempts=[START])
    make_run(folders[1], 4, HERE, state="running", attempts=[START])
    make_run(folders[2], 4, GONE, state="running", attempts=[START])
    make_run(folders[3], 1, state="preempted", attempts=[START | {"reason": "SIGUSR1"}])
    make_run(folders[4], 2, state="failed", attempts=[START | {"reason": "NotFiniteError: loss"}])
    log_path(made, 6).parent.mkdir(parents=True)
    log_path(made, 6).write_text("begins\nbash: everclip: command not found\n\n")
    return made


def test_every_state_is_told_apart(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep.path)])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{sweep.path}: 9 runs, 1 finished, 1 running, 2 preempted, 3 failed, 2 missing"
    assert [" ".join(line.split()) for line in lines] == [
        "finished ncm-shapes-seed0 session 8/8",
        "running ncm-shapes-seed1 session 4/8, 50 s left on node7 since 2026-01-02T03:04:05+00:00",
        "preempted ncm-shapes-seed2 session 4/8 killed, goes on with the same command",
        "preempted ncm-shapes-seed3 session 1/8 SIGUSR1, goes on with the same command",
        "failed ncm-shapes-seed4 session 2/8 NotFiniteError: loss",
        "failed ncm-shapes-seed5 session 0 exit 2: no pictures",
        "failed ncm-shapes-seed6 session 0 bash: everclip: command not found",
        "missing ncm-shapes-seed7",
        "missing ncm-shapes-seed8",
    ]


@pytest.mark.parametrize(
    ("choice", "seeds"), [("failed", [4, 5, 6]), ("preempted", [2, 3]), ("missing", [7, 8]), ("left", range(2, 9))]
)
def test_commands_of_what_is_left(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], choice: str, seeds: list[int]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([str(sweep.path), "--rerun", choice])
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line) for line in lines] == [["everclip", f"seed={seed}", "a='b c'"] for seed in seeds]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("method.lr=1e-3", None),
        ("+experiment=cpe_clip/cub200", None),
        ("method._target_=os.system", "says method._target_=os.system"),
        ("method={_target_:os.system}", "says method={_target_"),
        ("--config-dir=theirs", "says --config-dir=theirs"),
        ("-cdtheirs", "says -cdtheirs"),
        ("~method", "says ~method"),
        ("backbone.weights=${oc.env:HOME}", "says backbone.weights"),
        ("hydra.searchpath=[theirs]", "says hydra.searchpath"),
        ("+hydra.callbacks.x=1", "says [+]hydra.callbacks"),
        ("hydra.run.dir=/etc", "says hydra.run.dir=/etc"),
        ("paths.outputs=/home/victim", "says paths.outputs=/home/victim"),
        ("paths.data=/elsewhere", "says paths.data=/elsewhere"),
        ("method=../../../tmp/theirs", "says method=../"),
        ("backbone=/tmp/theirs", "says backbone=/tmp/theirs"),
        ("trust=[subprocess]", "says trust="),
        ("eval=/received/checkpoints/session_00.safetensors", "says eval="),
        ("cwd", "was written for the folder /"),
        ("folder", "writes to /etc/seed9"),
    ],
)
def test_a_received_folder_starts_nothing_of_its_own(
    tmp_path: Path,
    word: str,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = "/etc/seed9" if word == "folder" else f"{tmp_path}/a/b/c/d/seed9"
    words = ["seed=9", f"hydra.run.dir={folder}", *([] if word in ("cwd", "folder") else [word])]
    sweep = Sweep(tmp_path, [Job(folder, words)], "/" if word == "cwd" else os.getcwd())
    sweep.write()
    started: list[int] = []
    monkeypatch.setattr(LocalRuns, "run", lambda self, sweep, chosen, note: started.extend(chosen) or {})
    for options, starts in (((), said is None), (("--trust",), True)):
        started.clear()
        with pytest.raises(SystemExit) as end:
            main([str(sweep.path), "--rerun", "missing", "--launch", *options])
        assert (started, end.value.code) == (([0], 0) if starts else ([], 2))
    if said:
        assert re.search(said, capsys.readouterr().err)


def test_the_queue_knows_more(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that was put back shows as queued, and a lock of a job that is over holds nothing."""
    queue = shlex.quote("40_7 PENDING\n40_8 RUNNING\n40_3 COMPLETING\n")
    (tmp_path / "squeue").write_text(SQUEUE.format(queue=queue))
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sweep.note({3: {"slurm": "40_3"}})
    for seed, folder in ((1, Path(sweep.jobs[1].folder)), (2, Path(sweep.jobs[2].folder))):
        (folder / "lock.json").write_text(json.dumps({"host": "node7", "pid": 1, "slurm": f"39_{seed}/0"}))
    assert [row.state for row in examine(sweep)][:4] == ["finished", "preempted", "preempted", "preempted"]
    assert [row.state for row in examine(sweep)][7:] == ["queued", "running"]
    assert [row.note for row in examine(sweep)][7:] == ["40_7", "starting, 40_8"]


@pytest.mark.parametrize(
    ("process", "states"),
    [
        pytest.param(HERE, ["finished", "running", "running", "queued", "running", "failed"], id="goes on"),
        pytest.param(GONE, ["finished", "running", "preempted", "preempted", "preempted", "failed"], id="was killed"),
    ],
)
def test_a_sweep_of_this_machine_knows_what_waits(
    sweep: Sweep, process: dict[str, object], states: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(Path(sweep.jobs[4].folder))
    sweep.process = process
    said = ("completed", "in flight", "in flight", "waiting", "in flight", "failed", "waiting", "waiting", "completed")
    sweep.note({index: {"state": state} for index, state in enumerate(said)})
    main([str(sweep.path.with_suffix("")), "--json"])
    rows = json.loads(capsys.readouterr().out)
    waiting = ["queued", "queued"] if process is HERE else ["failed", "missing"]
    assert [row["state"] for row in rows] == [*states, *waiting, "missing"]
    assert ("waits for its turn" in [row["note"] for row in rows]) == (process is HERE)


def test_watching_tells_what_changes_until_nothing_goes_on(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(Path(sweep.jobs[1].folder))
    steps = [
        lambda: folder.write_sessions([record(index) for index in range(5)], 0),
        lambda: make_run(Path(sweep.jobs[7].folder), 1, HERE, state="running", attempts=[START]),
        lambda: folder.update_run(state="finished"),
        lambda: RunFolder(Path(sweep.jobs[7].folder)).update_run(state="failed", attempts=[START | {"reason": "no"}]),
    ]
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        steps.pop(0)()

    monkeypatch.setattr(watch.time, "sleep", sleep)
    main([str(sweep.path), "--watch", "2.5"])
    text = capsys.readouterr().out
    told = [line.partition("  ")[2] for line in text.splitlines() if re.match(r"\d\d:\d\d:\d\d  ", line)]
    assert waited == [2.5] * 4
    assert told == [
        "ncm-shapes-seed1: session 5/8, 40 s left",
        f"ncm-shapes-seed7: running (missing before), session 1/8, 80 s left, on node7 since {START['start']}, 40_7",
        "ncm-shapes-seed1: finished (running before), session 4/4",
        "ncm-shapes-seed7: failed (running before), session 1/8, no",
    ]
    assert text.rpartition("9 runs, ")[2].startswith("2 finished, 2 preempted, 4 failed, 1 missing")


def test_a_watch_that_is_interrupted_leaves_the_terminal_as_it_was(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, before = _Console(file=io.StringIO(), force_terminal=True, width=40), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(watch, "terminal", shown)
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGTERM))
    main([str(sweep.path), "--watch"])
    hidden, _, after = shown.file.getvalue().rpartition("\x1b[?25h")  # the cursor is shown again
    assert "\x1b[?25l" in hidden
    assert "ncm-shapes-seed8" in after
    assert "\x1b[" not in re.sub(r"\x1b\[\d*(;\d+)*[mAK]", "", after)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("word", ["outputs", "0", "-1"])
def test_what_is_no_number_of_seconds_is_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([f"--watch={word}"])
    assert f"{word} is no number of seconds; a place stands before --watch" in capsys.readouterr().err


def test_a_lock_of_another_host_counts_where_nobody_knows_better(sweep: Sweep, tmp_path: Path) -> None:
    lock = Path(sweep.jobs[2].folder) / "lock.json"
    lock.write_text(json.dumps({"host": "node7", "pid": 1, "slurm": None}))
    assert examine(sweep)[2].state == "running"


def test_runs_of_no_sweep_are_found(sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "shapes/ncm/tiny/def/seed3", 9, state="finished", overrides=["x=1"])
    main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["no sweep: 1 runs, 1 finished", "finished   ncm-shapes-seed3  session 8/8"]


@pytest.mark.parametrize("state", ["running", "preempted", "failed", "finished"])
def test_no_session_follows_the_last(state: str, sweep: Sweep) -> None:
    rows = [Row(sweep.jobs[0], state, sessions=done, of=2) for done in (1, 2)]
    assert [row.progress for row in rows] == ["session 1/1", "session 1/1"]


def test_runs_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for seed in (10, 9, 100, 1):
        make_run(tmp_path / f"shapes/ncm/tiny/abc/seed{seed}", 9, state="finished")
    (others,) = read_sweeps(tmp_path)
    assert [Path(job.folder).name for job in others.jobs] == ["seed1", "seed9", "seed10", "seed100"]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["ncm", "ncm shots=1", "ncm shots=2", "ncm shots=16"], id="counts"),
        pytest.param(["lr=1e-4", "lr=0.0005", "lr=0.25", "lr=0.5", "lr=10"], id="fractions"),
        pytest.param(["a/seed02", "a/seed2", "a/seed10/x", "b", "b1"], id="paths"),
    ],
)
def test_numbers_in_names_count_as_numbers(names: list[str]) -> None:
    assert sorted(set(names), key=numbered) == names


def test_tags_and_notes_stand_behind_their_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "shapes/ncm/tiny/abc/seed0", 9, state="finished", overrides=[], tags=["a", "b"], notes="why")
    main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[-1].endswith("session 8/8  #a  #b  why")


def test_names_leave_out_what_all_runs_of_a_sweep_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [["sequence.shots=3", f"optimizer.lr={lr}"] for lr in (0.1, 0.2)]
    jobs = [Job(f"{tmp_path}/shapes/ncm/tiny/{number}/seed0", own) for number, own in enumerate(words)]
    Sweep(tmp_path, jobs, "/").write()
    main([str(tmp_path)])
    names = [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names == ["ncm-shapes-lr=0.1-seed0", "ncm-shapes-lr=0.2-seed0"]


def test_a_wrong_place_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    for place in ("nowhere", "x.json"):
        with pytest.raises(SystemExit, match="2"):
            main([str(tmp_path / place)])
    missing, other = capsys.readouterr().err.splitlines()
    assert missing.startswith(f"everclip-status: {tmp_path}/nowhere: no such folder; give a folder")
    assert other == f"everclip-status: {tmp_path}/x.json does not list a sweep: KeyError: 'jobs'"


def test_many_folders_are_read_fast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job(f"{tmp_path}/shapes/ncm/tiny/abc/seed{seed}", []) for seed in range(300)]
    Sweep(tmp_path, jobs, "/").write()
    make_run(Path(jobs[0].folder), 9, state="finished", attempts=[START])
    for job in jobs[1:]:
        shutil.copytree(jobs[0].folder, job.folder)
    before = time.process_time()
    main([str(tmp_path)])
    assert time.process_time() - before < 2
    assert len(capsys.readouterr().out.splitlines()) == 301
