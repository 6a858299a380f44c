"""Folders that are no runs of ours, beside one that is: every reader names them, and shows what it can."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everclip.commands import status
from everclip.commands.report import main as report
from everclip.digest import json_sha256
from everclip.reporting.page.runs import find_runs
from everclip.reporting.stored import Odd, Run, read_run
from everclip.reporting.tables.definition import read_definition
from everclip.reporting.tables.experiments import scan
from everclip.reporting.tables.table import make_table
from everclip.runs.folder import RunFolder
from tests.test_page import Page, make_run

Break = Callable[[Path], Any]
SEQUENCE = "../../up [/bold]"
NAMES = ("\x1b[31mred\n[/bold]|<b>", "\u202eturned :dog: half \udc80")


def holds(name: str, content: str | bytes) -> Break:
    """A file with other content."""
    return lambda run: (run / name).write_bytes(content.encode() if isinstance(content, str) else content)


def says(name: str, **facts: Any) -> Break:
    """A JSON file that says something else, with a sum that is right."""

    def change(run: Path) -> None:
        known = json.loads((run / name).read_text()) | facts
        del known["check"]
        kept = {key: value for key, value in known.items() if value is not ...}
        (run / name).write_text(json.dumps(kept | {"check": json_sha256(kept)}))

    return change


def records(**facts: Any) -> Break:
    """The same of the last session's record; `task_*` of its last task."""

    def change(run: Path) -> None:
        *lines, last = map(json.loads, (run / "sessions.jsonl").read_text().splitlines())
        del last["check"]
        last |= {key: value for key, value in facts.items() if not key.startswith("task_")}
        if "tasks" not in facts:
            last["tasks"][-1] |= {key[5:]: value for key, value in facts.items() if key.startswith("task_")}
        lines.append(last | {"check": json_sha256(last)})
        (run / "sessions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return change


def without(name: str, make: Break | None = None) -> Break:
    """A file that is not there, or something else in its place."""

    def change(run: Path) -> None:
        (run / name).unlink()
        if make is not None:
            make(run / name)

    return change


DEEP = "[" * 100_000
BREAKS: dict[str, Break] = {
    # run.json
    "no run.json": without("run.json"),
    "empty": holds("run.json", ""),
    "cut off": lambda run: (run / "run.json").write_text((run / "run.json").read_text()[:99]),
    "binary": holds("run.json", bytes(range(256))),
    "a list": holds("run.json", "[1, 2]"),
    "inputs of numbers": says("run.json", inputs=[1]),
    "contents of a number": says("run.json", contents=1),
    "deep": holds("run.json", DEEP),
    "deep in a key": holds("run.json", '{"check": 1, "x": ' + "[" * 900 + "]" * 900 + "}"),
    "a number without end": holds("run.json", '{"seed": ' + "1" * 9999 + "}"),
    "changed by hand": lambda run: (run / "run.json").write_text((run / "run.json").read_text().replace("ncm", "er")),
    "a folder": without("run.json", Path.mkdir),
    "a link to itself": without("run.json", lambda path: path.symlink_to(path)),
    "a pipe": without("run.json", os.mkfifo),
    "unreadable": without("run.json", lambda path: path.symlink_to("/proc/self/mem")),
    "half of a pair": holds("run.json", '{"method": "\\ud800", "check": "x"}'),
    "nothing but a state": says("run.json", **dict.fromkeys(("method", "overrides", "digest", "seed"), ...)),
    "method of no name": says("run.json", method={"name": "ncm"}),
    "overrides as text": says("run.json", overrides="seed=0"),
    "overrides of numbers": says("run.json", overrides=[1, None]),
    "seed as text": says("run.json", seed="zero"),
    "endless seed": says("run.json", seed=10**400),
    "attempts by name": says("run.json", attempts={"0": {}}),
    "attempts of nothing": says("run.json", attempts=[None]),
    "unknown state": says("run.json", state="exploded"),
    "unknown protocol": says("run.json", protocol="chess"),
    "weights as text": says("run.json", weights="tiny"),
    "versions of lists": says("run.json", versions={"torch": [2]}),
    # summary.json
    "no summary": without("summary.json"),
    "summary cut off": holds("summary.json", '{"average'),
    "a text as figure": says("summary.json", average_accuracy="90"),
    "not a number": says("summary.json", last_accuracy=float("nan")),
    "endless figure": says("summary.json", trainable_parameters=10**400),
    "curve of texts": says("summary.json", accuracy_per_session=["a", "b"]),
    "curve as figure": says("summary.json", accuracy_per_session=1.0),
    "no curve": says("summary.json", accuracy_per_session=[]),
    "average as list": says("summary.json", average_accuracy=[1.0]),
}
RECORDS: dict[str, Break] = {
    "no sessions": without("sessions.jsonl"),
    "sessions cut off": lambda run: (run / "sessions.jsonl").write_text((run / "sessions.jsonl").read_text()[:-9]),
    "binary sessions": holds("sessions.jsonl", bytes(range(256))),
    "deep sessions": holds("sessions.jsonl", DEEP),
    "tasks by name": records(tasks={"0": 1}),
    "tasks of texts": records(tasks=["a"]),
    "no pictures": records(task_count=0),
    "other pictures": records(task_task=0, task_count=11),
    "negative task": records(task_task=-1),
    "endless task": records(task_task=10**9),
    "too many guesses": records(task_predicted=[1] * 9),
    "scores as text": records(task_scores={"accuracy": "high"}),
    "infinite score": records(task_scores={"accuracy": {"value": float("inf"), "count": 10}}),
    "accuracy as text": records(accuracy="high"),
    "no accuracy": records(accuracy=None),
    "seconds as text": records(train_seconds="long"),
    "longer curve": says("summary.json", accuracy_per_session=[1.0, 2.0, 3.0]),
    "no average": says("summary.json", average_accuracy=None),
    "no memory": says("summary.json", peak_memory_mb=None),
    "no devices": says("run.json", devices=None),
    "no precision": says("run.json", precision=None),
    "no speed": records(eval_images_per_second=None),
}
# What tells of nothing that is needed is no reason to leave a run out.
SHOWN: dict[str, Break] = {
    "no config": without("config.yaml"),
    "binary config": holds("config.yaml", bytes(range(256))),
    "config of a list": holds("config.yaml", "- 1\n- [2]\n"),
    "config with a tag": holds("config.yaml", "a: !!python/object/apply:os.system [true]\n"),
    "deep config": holds("config.yaml", DEEP),
    "config without end": holds(
        "config.yaml", "a0: &a0 [1, 1]\n" + "".join(f"a{k + 1}: &a{k + 1} [*a{k}, *a{k}]\n" for k in range(40))
    ),
    "config in a pipe": without("config.yaml", os.mkfifo),
    "lock of a list": holds("lock.json", "[]"),
    "lock of texts": holds("lock.json", '{"host": [], "pid": "../../etc"}'),
    "no attempts": says("run.json", attempts=[]),
    "an empty attempt": says("run.json", attempts=[{}]),
}  # fmt: skip


def broken(root: Path, name: str, change: Break) -> Path:
    """A run of a digest of its own, changed."""
    run = make_run(root, seed=7, sequence=SEQUENCE, digest=f"d{json_sha256(name)[:7]}").path
    change(run)
    return run


@pytest.mark.parametrize("name", [*BREAKS, *RECORDS])
def test_a_folder_that_cannot_be_shown_says_why(tmp_path: Path, name: str) -> None:
    found = read_run(broken(tmp_path, name, (BREAKS | RECORDS)[name]))
    assert isinstance(found, Odd)
    assert found.reason.startswith(("run.json", "summary.json", "sessions.jsonl", "finished, but summary", "protocol"))
    assert len(found.reason) < 300


@pytest.mark.parametrize("name", SHOWN)
def test_what_nothing_needs_is_no_reason(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = read_run(broken(tmp_path, name, SHOWN[name]))
    assert isinstance(run, Run)
    assert bool(run.settings) == ("config" not in name)
    status.main([str(tmp_path)])
    assert "1 finished" in capsys.readouterr().out


def test_every_reader_shows_what_it_can_and_names_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = make_run(tmp_path, sequence=SEQUENCE).path
    odd = {str(broken(tmp_path, name, change)) for name, change in BREAKS.items()}
    no_sessions = {str(broken(tmp_path, name, change)) for name, change in RECORDS.items()}
    shown = set()
    for number, name in enumerate(NAMES):
        changed = make_run(tmp_path, seed=7, sequence=SEQUENCE, digest=f"n{number}").path
        says("run.json", method=name, host=name, overrides=[f"x={name}"])(changed)
        shown.add(str(changed))
    (tmp_path / "\x1b[2J").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "sweeps").mkdir()
    for number, text in enumerate(("", "[]", '{"jobs": [{"folder": 1, "words": 2}], "cwd": "/"}', DEEP)):
        (tmp_path / "sweeps" / f"{number}.json").write_text(text)

    assert report([str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    assert not set(text) & set("\x1b\u202e")
    page = Page(text)
    failures = {str(tmp_path / row[-1]) for row in page.table("without a result")[1:]}
    assert failures == odd | no_sessions
    listed = {str(tmp_path / row[-1]) for row in page.table("All runs")[1:]}
    assert listed == shown | {str(good)}

    capsys.readouterr()
    status.main([str(tmp_path)])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    silent = {path for path in odd if not RunFolder(Path(path)).read_run()}
    assert f"{len(shown | no_sessions | odd - silent) + 1} runs" in out
    assert {path for path in odd if f"left out: {path}: run.json" in err} == silent
    assert err.count("does not list a sweep") == 4

    grid, _ = make_table(read_definition("shapes"), [], scan([str(tmp_path)]))
    (damaged,) = [note for note in grid.notes if note.title.startswith("Damaged")]
    assert {item.split(": ")[0] for item, _ in damaged.items} == odd


def test_a_folder_of_nothing_but_odd_runs_is_named_too(tmp_path: Path) -> None:
    broken(tmp_path, "a list", BREAKS["a list"])
    runs, odd = find_runs(tmp_path)
    assert (len(runs), len(odd)) == (0, 1)
    assert report([str(tmp_path)]) == 0


def test_a_list_of_runs_may_say_anything(tmp_path: Path) -> None:
    run = make_run(tmp_path / "outputs").path
    (tmp_path / "runs.txt").write_bytes(b"\xff\n/dev/null\n\0\nnowhere\n" + bytes(run))
    runs, odd = find_runs(tmp_path)
    assert ([one.folder.path for one in runs], odd) == ([run], [])


def test_a_run_folder_of_another_depth_has_a_name(tmp_path: Path) -> None:
    assert status.Job("/r", []).name == "?-?-r"
