"""What a person sees on a terminal, and what a file gets."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from everclip.reporting.console import StepProgress, log, set_up_logging
set_up_logging({level!r})
bar = StepProgress("session 1 train", 2)
for _ in range(2):
    bar.advance(0.5)
bar._bar.refresh()
bar.stop()
log.info("session 1/8    65 classes  accuracy  65.69  base  66.17")
log.info("| method | 0 |\\n|--------|---|\\n| ncm    | 1 |")
log.warning("going back one session")
"""
TEXT = """session 1/8    65 classes  accuracy  65.69  base  66.17
| method | 0 |
|--------|---|
| ncm    | 1 |
going back one session
"""
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|9\d|38;[\d;]+)m")
CODE = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


def environment(**changed: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE")}
    source = str(Path(__file__).parents[1] / "src")
    return kept | {"TERM": "xterm-256color", "COLUMNS": "100", "PYTHONPATH": source} | changed


def on_a_terminal(level: str = "info", **changed: str) -> str:
    """What the script sends to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", SCRIPT.format(level=level)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment(**changed)) as process:
        os.close(theirs)
        output = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            output += chunk
        os.close(ours)
        assert process.wait(30) == 0
    return output.decode().replace("\r\n", "\n")


def test_a_terminal_gets_a_bar_and_colours_and_the_same_text() -> None:
    output = on_a_terminal()
    assert "2/2" in output
    assert "loss 0.500" in output
    assert COLOUR.search(output)
    assert CODE.sub("", output).endswith(TEXT)


def test_no_color_is_respected() -> None:
    output = on_a_terminal(NO_COLOR="1")
    assert "2/2" in output
    assert not COLOUR.search(output)


@pytest.mark.parametrize(
    ("level", "changed"),
    [pytest.param("warning", {}, id="log_level"), pytest.param("info", {"TERM": "dumb"}, id="dumb")],
)
def test_no_bar_where_it_is_not_wanted(level: str, changed: dict[str, str]) -> None:
    output = on_a_terminal(level, **changed)
    assert "2/2" not in output
    assert ("session 1/8" in output) == (level == "info")
    assert "going back one session" in output


def test_a_pipe_gets_plain_text_only() -> None:
    command = [sys.executable, "-c", SCRIPT.format(level="info")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == TEXT
