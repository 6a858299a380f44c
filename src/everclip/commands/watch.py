"""What `everclip-status --watch` does: the same lines again and again in one place, and above them what has changed."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.text import Text

from everclip.reporting.console import terminal
from everclip.reporting.plain import plain
from everclip.sweeps.progress import Row, examine, read_sweeps
from everclip.sweeps.sweep import Sweep

GOES_ON = ("running", "queued")

Found = list[tuple[Sweep, list[Row]]]


def watch(place: Path, seconds: float, lines_of: Callable[[Sweep, Sequence[Row]], list[Text]]) -> None:
    """Shows how far runs are until none of them runs or waits any more, or until it is interrupted.

    What changes is told in lines that stay; without a terminal these are all there is between the first and the last
    state.
    """

    def read() -> Found:
        return [(sweep, examine(sweep)) for sweep in read_sweeps(place)]

    def lines() -> list[Text]:
        return [line for sweep, rows in found for line in lines_of(sweep, rows)]

    _warn_once()
    terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)  # the terminal is put in order then, too
    found = read()
    try:
        if not terminal.is_terminal:
            terminal.print(*lines(), sep="\n")
        with Live(console=terminal, auto_refresh=False, transient=True) as live:
            while any(row.state in GOES_ON for _, rows in found for row in rows):
                shown = [Text.assemble(line, no_wrap=True, overflow="ellipsis") for line in lines()]
                live.update(Group(*shown), refresh=True)
                time.sleep(seconds)
                before, found = found, read()
                for change in changes(before, found):
                    live.console.print(f"{time.strftime('%H:%M:%S')}  {change}")
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, terminate)
    terminal.print(*lines(), sep="\n")


def changes(before: Found, now: Found) -> list[str]:
    """One line for each run that is new, in another state, or has finished another session."""
    known = {row.job.folder: row for _, rows in before for row in rows}
    told = []
    for row in (row for _, rows in now for row in rows):
        earlier = known.get(row.job.folder)
        if earlier is None or earlier.state != row.state:
            words = [f"{row.state}{f' ({earlier.state} before)' if earlier else ''}", row.progress, row.note]
        elif earlier.sessions != row.sessions:
            words = [row.progress]
        else:
            continue
        told.append(plain(f"{row.name}: {', '.join(filter(None, words))}"))
    return told


def _warn_once() -> None:
    """Tells the same warning, as that of a damaged folder, only the first time."""
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return message not in told and not told.add(message)  # type: ignore[func-returns-value]  # adds it

    for handler in logging.getLogger("everclip").handlers:
        handler.addFilter(is_new)
