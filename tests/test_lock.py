"""One process works in a run folder, whoever else asks for it."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everclip import storage
from everclip.errors import LockedError
from everclip.runs import lock
from everclip.runs.folder import RunFolder

Leave = Callable[..., dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def leave(folder: RunFolder) -> Leave:
    """Leaves a lock in the folder: this process's, but for what is given."""

    def _leave(**changed: Any) -> dict[str, Any]:
        folder.path.mkdir(exist_ok=True)
        holder = lock.this_process() | {"since": "long ago", "token": "theirs"} | changed
        (folder.path / "lock.json").write_text(json.dumps(holder))
        return holder

    return _leave


OTHER = os.getppid()


def test_a_lock_says_who_holds_it(folder: RunFolder, leave: Leave) -> None:
    folder.lock()
    assert lock.read(folder.path / "lock.json")["pid"] == os.getpid()
    leave(pid=OTHER, started=None)
    with pytest.raises(LockedError, match=rf"in use by process {OTHER} on .* since long ago; stop it, or wait for it"):
        folder.lock(force=True)  # a living process of this machine is never robbed
    leave(pid=OTHER, started="1")
    folder.lock()  # the number went to another process since
    leave(host="elsewhere")
    with pytest.raises(LockedError, match=r"on elsewhere since long ago; if that process is gone, add force=true"):
        folder.lock()
    folder.lock(force=True)
    folder.unlock()
    assert list(folder.path.iterdir()) == []


def test_a_refused_second_start_leaves_the_first_its_lock(folder: RunFolder, leave: Leave) -> None:
    holder = leave(pid=OTHER, started=None)
    with pytest.raises(LockedError):
        folder.lock()
    assert [path.name for path in folder.path.iterdir()] == ["lock.json"]
    folder.unlock()  # nothing of its own
    assert lock.read(folder.path / "lock.json") == holder


def test_a_lock_taken_by_force_is_not_given_back_by_who_had_it(folder: RunFolder, leave: Leave) -> None:
    folder.lock()
    holder = leave(pid=OTHER)
    folder.unlock()
    assert lock.read(folder.path / "lock.json") == holder


@pytest.mark.parametrize("changed", [{"pids": "pid:[1]"}, {"boot": "other", "machine": "other"}], ids=str)
def test_a_number_of_another_container_says_nothing(folder: RunFolder, leave: Leave, changed: dict[str, str]) -> None:
    for pid in (OTHER, 2**22 + 1):  # one that lives here, and one that does not
        leave(pid=pid, **changed)
        name = f"{socket.gethostname()}, a container or machine of the same name since"
        with pytest.raises(LockedError, match=f"{name} .* add force=true"):
            folder.lock()
    folder.lock(force=True)


def test_the_lock_of_a_machine_that_has_started_again_is_free(
    folder: RunFolder, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = lock.this_process() | {"machine": "m", "pids": lock.NOT_CONTAINED}
    monkeypatch.setattr(lock, "this_process", lambda: here)
    leave(pid=OTHER, started=None, boot="before")
    folder.lock()
    monkeypatch.setattr(lock, "NOT_CONTAINED", "another")  # containers may start at any time
    leave(pid=OTHER, started=None, boot="before")
    with pytest.raises(LockedError):
        folder.lock()


def test_locks_of_older_versions_are_known_by_their_host(folder: RunFolder) -> None:
    folder.path.mkdir()
    holder = {"host": socket.gethostname(), "pid": OTHER, "started": None, "since": "2026"}
    (folder.path / "lock.json").write_text(json.dumps(holder))
    with pytest.raises(LockedError, match="stop it, or wait for it"):
        folder.lock(force=True)
    (folder.path / "lock.json").write_text(json.dumps(holder | {"started": "1"}))
    folder.lock()


def test_a_file_system_without_hard_links(folder: RunFolder, leave: Leave, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    folder.lock()
    assert lock.read(folder.path / "lock.json")["pid"] == os.getpid()
    leave(pid=OTHER, started=None)
    with pytest.raises(LockedError):
        folder.lock()
    leave(pid=OTHER, started="1")
    folder.lock()
    folder.unlock()
    assert list(folder.path.iterdir()) == []


def test_a_lock_that_changed_hands_meanwhile_is_put_back(folder: RunFolder, leave: Leave) -> None:
    stale, other = leave(started="1"), leave(token="another")
    lock._remove(folder.path / "lock.json", stale)
    assert lock.read(folder.path / "lock.json") == other
    assert [path.name for path in folder.path.iterdir()] == ["lock.json"]


# Each of many processes asks once, at the same moment, for a lock whose holder is gone, and lives until all have asked.
RACE = """
import os, sys
from pathlib import Path
from everclip.errors import LockedError
from everclip.runs.folder import RunFolder
for number in range(int(sys.argv[2])):
    folder = RunFolder(Path(sys.argv[1]) / str(number))
    folder.lock()
    path = folder.path / "lock.json"
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 4194305'))
    (start, go), (answers, answer), (end, stop) = os.pipe(), os.pipe(), os.pipe()
    children = []
    for _ in range(20):
        if not (child := os.fork()):
            os.close(go), os.close(stop)
            os.read(start, 1)
            try:
                folder.lock()
                os.write(answer, b"1")
            except LockedError:
                os.write(answer, b"0")
            os.read(end, 1)
            os._exit(0)
        children.append(child)
    os.close(go)
    told = b""
    while len(told) < 20:
        told += os.read(answers, 20)
    os.close(stop)
    for child in children:
        os.waitpid(child, 0)
    print(told.count(b"1"), sorted(path.name for path in folder.path.iterdir()))
"""


def test_of_many_that_take_over_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", RACE, tmp_path, "3"], capture_output=True, text=True, check=True)
    assert done.stdout == "1 ['lock.json']\n" * 3


def test_what_others_are_writing_is_left_alone(folder: RunFolder) -> None:
    """A report of the run, and the question of another process for the lock."""
    (folder.path / "checkpoints").mkdir(parents=True)
    ours = [".run.json.1.tmp", ".scores.csv.ab.tmp", "checkpoints/.progress.safetensors.host.7.tmp", ".lock.old"]
    theirs = [".report.html.ab.tmp", ".lock.cd", "..lock.cd.ef.tmp"]
    for name in (*ours, *theirs):
        (folder.path / name).touch()
    os.utime(folder.path / ".lock.old", (0, 0))
    folder.sweep()
    assert sorted(path.name for path in folder.path.iterdir()) == sorted([*theirs, "checkpoints"])
    assert list((folder.path / "checkpoints").iterdir()) == []


def test_two_that_write_one_file_do_not_write_into_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from two containers that share a name and number their processes alike."""
    with storage.replacing(tmp_path / "file") as first:
        first.write(b"whole")
        with storage.replacing(tmp_path / "file") as second:
            second.write(b"of another length")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]
