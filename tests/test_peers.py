"""No process of a parallel run waits for ever for one that is gone; see also tests/test_ddp.py."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from types import SimpleNamespace

import pytest

from everclip.errors import ConfigError, EverclipError, PeerLostError, Preempted
from everclip.training import peers
from everclip.training.peers import FIRST, Loss, Peers

NETWORK = RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "INTERVAL", 0.02)
    monkeypatch.delenv(FIRST, raising=False)


def started(line: str) -> SimpleNamespace:
    """A launcher that has started a process which runs a line of a shell."""
    return SimpleNamespace(procs=[subprocess.Popen(["sh", "-c", line])])


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        ("kill -9 $$", PeerLostError, r"process \d+ of this run was killed by SIGKILL; the same command goes on"),
        ("exit 2", PeerLostError, r"process \d+ of this run ended with exit code 2; the same command goes on"),
        ("exit 75", Preempted, "a signal to another process"),
    ],
)
def test_what_became_of_a_process_is_told_in_one_line(line: str, kind: type[Loss], told: str) -> None:
    ends: queue.Queue[Loss] = queue.Queue()
    watched, launcher = Peers(0, ends.put, patience=0.5), started(line)
    watched.watch(launcher)
    cause = watched.cause(NETWORK, None)
    assert isinstance(cause, kind)
    with pytest.raises(kind, match=told):
        raise ends.get(timeout=30)  # this process went on waiting
    assert launcher.procs == []  # nothing for Lightning to kill this process for
    watched.close(failed=True)


def test_a_process_that_ends_by_itself_in_time_is_left_to_it() -> None:
    ends: queue.Queue[Loss] = queue.Queue()
    watched = Peers(0, ends.put, patience=0.3)
    watched.watch(started("kill -9 $$"))
    assert isinstance(watched.cause(NETWORK, None), PeerLostError)
    watched.close(failed=True)
    with pytest.raises(queue.Empty):
        ends.get(timeout=0.6)


def test_a_process_whose_first_one_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: queue.Queue[Loss] = queue.Queue()
    monkeypatch.setenv(FIRST, str(os.getppid()))
    watched = Peers(1, ends.put, patience=0.05)
    watched.watch(SimpleNamespace(procs=[]))
    with pytest.raises(queue.Empty):
        ends.get(timeout=0.2)
    monkeypatch.setattr(os, "getppid", lambda: 0)  # a test run may itself be a child of process 1
    assert str(ends.get(timeout=30)) == "the first process of this run is gone; the same command goes on"
    watched.close(failed=True)
    assert os.environ[FIRST] != str(os.getpid())


def test_a_process_that_starts_ends_with_its_first_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends: queue.Queue[int] = queue.Queue()

    def end(code: int) -> None:
        peers._LOOKED_AFTER.set()
        ends.put(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(peers, "_LOOKED_AFTER", threading.Event())
    monkeypatch.setenv(FIRST, str(os.getppid()))
    peers.end_with_first()
    with pytest.raises(queue.Empty):
        ends.get(timeout=0.5)
    monkeypatch.setattr(os, "getppid", lambda: 0)  # a test run may itself be a child of process 1
    assert ends.get(timeout=30) == PeerLostError("").exit_code
    assert capsys.readouterr().err == "everclip: the first process of this run is gone; the same command goes on\n"


def test_other_errors_stay_what_they_are() -> None:
    watched = Peers(0, lambda _: None)
    assert watched.cause(NETWORK, None) is NETWORK  # of a run of one process
    launcher = started("sleep 30")
    (child,) = launcher.procs
    watched.watch(launcher)
    for error in (KeyError("a"), ConfigError("no"), NETWORK):
        assert watched.cause(error, None) is error
    stopped = watched.cause(NETWORK, "SIGTERM")
    assert isinstance(stopped, Preempted)
    assert str(stopped) == "SIGTERM"
    watched.close(failed=False)
    assert child.poll() is None
    watched.close(failed=True)
    assert child.wait(30) == -15


def test_a_lost_process_while_starting_is_no_wrong_setting() -> None:
    watched = Peers(0, lambda _: None)
    watched.watch(started("exit 1"))
    error = ConfigError("trainer.accelerator=cpu trainer.devices=2: Connection reset by peer")
    error.__cause__ = NETWORK
    cause = watched.cause(error, None)
    assert isinstance(cause, EverclipError)
    assert "ended with exit code 1" in str(cause)
    watched.close(failed=True)
