"""Signals while a run works."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from omegaconf import OmegaConf

from everclip.commands import execute
from everclip.config.build import build
from everclip.errors import Preempted, behind
from everclip.runs.folder import RunFolder
from everclip.training.interruption import SIGNALS, StopRequest
from everclip.training.monitor import Monitor
from everclip.training.runner import Runner
from tests.test_resume import CSV, Run, assert_equal


def test_a_hang_up_saves_and_goes_on(run: Run, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, saved = finished(*CSV), list[int]()
    original: Any = Runner._save_progress
    start: Any = Monitor.start
    request = StopRequest()
    handlers = [(number, signal.getsignal(number)) for number in (*SIGNALS, signal.SIGHUP)]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a test run under nohup ignores it
    request.install()

    def save(self: Runner, *arguments: Any, **words: Any) -> None:
        saved.append(arguments[4].step)
        original(self, *arguments, **words)

    def hang_up(self: Monitor, *arguments: int) -> None:
        start(self, *arguments)
        if not saved:
            os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(Runner, "_save_progress", save)
    monkeypatch.setattr(Monitor, "start", hang_up)
    monkeypatch.setattr("tests.conftest.execute.run", partial(execute.run, request=request))
    try:
        assert_equal(whole, run(*CSV, folder="alone"))
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert saved == [1]


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    handlers = [(number, signal.getsignal(number)) for number in (*SIGNALS, signal.SIGHUP)]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        StopRequest().install()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)


BLOCKED = """
import ctypes, sys
from everclip.training.interruption import SIGNALS, StopRequest
mutex, c = ctypes.create_string_buffer(64), ctypes.CDLL(None)
request = StopRequest()
request.install()
with request.insisting(patience=0.05), request.deferred():
    print("ready", flush=True)
    for _ in range(2):
        c.pthread_mutex_lock(mutex)  # for ever, and no signal interrupts it
"""


def test_a_second_interrupt_ends_what_waits_for_a_frozen_process() -> None:
    with subprocess.Popen([sys.executable, "-c", BLOCKED], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (
        75, "everclip: stopped at once; the same command goes on from what was saved last\n",
    )  # fmt: skip


class Stopping:
    """Raises, as a signal's handler does, at the n-th line or return in the modules that hold a run folder."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, frame: FrameType, event: str, value: Any) -> Any:
        if frame.f_code.co_filename not in (execute.__file__, contextlib.__file__):
            return None
        self.left -= 1
        if self.left == 0:
            raise Preempted("SIGTERM")
        return self


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a log that is opened is not closed
def test_a_signal_at_any_moment_before_the_work_is_what_ended_a_run(tmp_path: Path) -> None:
    before, worked, states = sys.gettrace(), list[int](), set[str | None]()
    for step in count(1):
        folder = RunFolder(tmp_path / f"{step}")

        def work(leave: execute.Leave, step: int = step) -> None:
            sys.settrace(None)
            worked.append(step)

        sys.settrace(Stopping(step))
        try:
            execute._work_in(folder, 0, [], work, force=False, restart=False)
        except Preempted:
            states.add(folder.state)
        finally:
            sys.settrace(before)
        if worked:
            break
    assert folder.state == "finished"
    assert states == {None, "preempted"}


class Signal:
    """An attribute of a class that a signal comes with while the class is made."""

    def __set_name__(self, owner: type, name: str) -> None:
        raise Preempted("SIGTERM")


def make_a_class(**arguments: Any) -> type:
    return type("Made", (), {"attribute": Signal()})  # Python 3.11 raises RuntimeError


@pytest.mark.parametrize("nested", [False, True])
def test_a_signal_while_a_class_is_made_is_what_ended_a_run(nested: bool, tmp_path: Path) -> None:
    def work(leave: execute.Leave) -> None:
        if nested:
            part = {"_target_": f"{__name__}.make_a_class"}
            build("sequence", OmegaConf.create({"_target_": f"{__name__}.make_a_class", "part": part}))
        make_a_class()

    folder = RunFolder(tmp_path)
    with pytest.raises((RuntimeError, Preempted)):
        execute._work_in(folder, 0, [], work, force=False, restart=False)
    assert folder.state == "preempted"
    assert folder.read_run()["attempts"][-1]["reason"] == "SIGTERM"


def test_errors_that_follow_from_each_other_are_looked_through_once() -> None:
    first, second = ValueError("a"), TypeError("b")
    first.__context__, second.__cause__ = second, first
    assert behind(first, Preempted) is None
    assert behind(first, TypeError) is second
