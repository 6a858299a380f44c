"""Asks a run to stop: the first signal lets it save and stop, a second Ctrl-C stops it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from everclip.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """The wish to stop, as signals express it.

    Attributes:
        name: of the first signal that came, None if none did.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._installed = False
        self._deferred = False

    def install(self) -> None:
        """Begins to listen; only in a program's main thread."""
        self._installed = True
        self.claim()

    def claim(self) -> None:
        """Takes the signals back from a library that has put handlers of its own in place."""
        if self._installed:
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
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
