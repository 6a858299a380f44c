"""Signals while a run works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from everclip.commands import execute
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
