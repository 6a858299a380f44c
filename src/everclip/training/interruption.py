"""Asks a run to stop: the first signal lets it save and stop, a second Ctrl-C stops it at once.

A terminal that hangs up stops nothing: the run saves and goes on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from everclip.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PATIENCE = 5.0  # seconds


class StopRequest:
    """The wish to stop, as signals express it.

    Attributes:
        name: of the first signal that came, None if none did.
        hung_up: the terminal is gone, and nothing was saved since.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.hung_up = False
        self._installed = False
        self._deferred = False
        self._over = False

    def install(self) -> None:
        """Begins to listen; only in a program's main thread."""
        self._installed, self._over = True, False
        self.claim()

    @contextmanager
    def insisting(self, patience: float = PATIENCE) -> Iterator[None]:
        """Inside, a second Ctrl-C ends the process even if it waits for one that is frozen; no signal does afterwards.

        Python acts on a signal between two of its instructions; a thread that is woken hears of it inside one, too.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        threading.Thread(target=_insist, args=(reader, patience), daemon=True).start()
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            self._over = True
            signal.set_wakeup_fd(before)
            os.close(writer)

    def claim(self) -> None:
        """Takes the signals back from a library that has put handlers of its own in place."""
        if self._installed:
            for number in SIGNALS:
                signal.signal(number, self._receive)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
                signal.signal(signal.SIGHUP, self._hang_up)

    def _hang_up(self, number: int, frame: Any) -> None:
        self.hung_up = True

    def _receive(self, number: int, frame: Any) -> None:
        if self._over:
            return
        first, self.name = self.name is None, self.name or signal.Signals(number).name
        if number == signal.SIGINT if not first else not self._deferred:
            raise Preempted(self.name)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a first signal is only noted: whoever is inside looks at `name` where it can stop and save.

        Raises:
            Preempted: afterwards, if a signal came and nobody stopped.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.name is not None:
            raise Preempted(self.name)


def _insist(reader: int, patience: float) -> None:
    """Ends the process some seconds after a second Ctrl-C."""
    stops = 0
    while number := os.read(reader, 1):
        stops += number[0] in SIGNALS
        if stops > 1 and number[0] == signal.SIGINT:
            time.sleep(patience)
            sys.stderr.write("everclip: stopped at once; the same command goes on from what was saved last\n")
            os._exit(Preempted.exit_code)
    os.close(reader)


os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a signal to a child is no signal to its parent
