"""The processes of a parallel run on one machine: none waits for ever for one that is gone."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from everclip.errors import EverclipError, PeerLostError, Preempted

log = logging.getLogger("everclip")

FIRST = "EVERCLIP_FIRST_PROCESS"  # of the run, for those that it starts
INTERVAL = 0.2  # seconds between looks
PATIENCE = 3.0  # seconds
Loss = EverclipError | Preempted
_LOOKED_AFTER = threading.Event()  # by `Peers`


class Peers:
    """Looks after the processes that this one has started for a run, or after the one that has started this one.

    A process that waits for another's share of a sum learns that it is gone by an error of the network, or never.

    Args:
        rank: of this process.
        end: ends this process for a reason; called from a thread, where the process does not end by itself.
        patience: seconds that it is given.
    """

    def __init__(self, rank: int, end: Callable[[Loss], None], patience: float = PATIENCE) -> None:
        self._rank, self._end, self._patience = rank, end, patience
        self._launched: list[subprocess.Popen[bytes]] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._lost: Loss | None = None
        self._watching = False
        self._one_ends = threading.Lock()  # the process: this thread, or the main one

    def watch(self, launcher: Any) -> None:
        """Begins to look after whom Lightning's launcher starts; or, where it has started this process, after that."""
        if self._rank == 0:
            os.environ[FIRST] = str(os.getpid())
        if not hasattr(launcher, "procs") or FIRST not in os.environ:
            return
        self._launched = launcher.procs
        look = self._ended if self._rank == 0 else partial(_orphaned, int(os.environ[FIRST]))
        self._watching = True
        _LOOKED_AFTER.set()
        threading.Thread(target=self._watch, args=(look,), daemon=True).start()

    def close(self, *, failed: bool) -> None:
        """Stops looking; ends the processes that this one has started if it has failed."""
        with self._one_ends:
            self._watching = False
        if self._rank == 0:
            os.environ.pop(FIRST, None)
        for child in (*self._children, *self._launched) if failed else ():
            child.terminate()

    def cause(self, error: BaseException, stop: str | None) -> BaseException:
        """What lies behind an error of this process: a wish to `stop`, a process that is gone, or itself."""
        if not self._watching or not isinstance(error.__cause__ or error, RuntimeError):
            return error
        if stop is not None:  # the others have left already
            log.warning("after the wish to stop: %s: %s", type(error).__name__, error)
            return Preempted(stop)
        deadline = time.monotonic() + 5 * INTERVAL
        while self._lost is None and time.monotonic() < deadline:
            time.sleep(INTERVAL / 4)
        return self._lost or error

    def _watch(self, look: Callable[[], Loss | None]) -> None:
        while self._watching and (lost := look()) is None:
            time.sleep(INTERVAL)
        deadline = time.monotonic() + self._patience
        while self._watching and time.monotonic() < deadline:
            self._lost = lost
            time.sleep(INTERVAL)
        with self._one_ends:
            if self._watching and lost is not None:
                self._end(lost)

    def _ended(self) -> Loss | None:
        while self._launched:  # left there, Lightning would kill this process for them before it can say why
            self._children.append(self._launched.pop(0))
        for child in self._children:
            code = child.poll()
            if code == Preempted.exit_code:
                return Preempted("a signal to another process")
            if code:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return PeerLostError(f"process {child.pid} of this run {how}; the same command goes on")
        return None


def end_with_first() -> None:
    """Looks after a process that another has started for a run while it starts itself, which takes seconds."""
    if FIRST in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ[FIRST]),), daemon=True).start()


def _end_with(first: int) -> None:
    while not _LOOKED_AFTER.wait(INTERVAL):
        if lost := _orphaned(first):
            sys.stderr.write(f"everclip: {lost}\n")
            os._exit(lost.exit_code)


def _orphaned(first: int) -> PeerLostError | None:
    if os.getppid() == first:
        return None
    return PeerLostError("the first process of this run is gone; the same command goes on")
