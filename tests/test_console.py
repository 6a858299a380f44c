"""What a person sees on a terminal, and what a file gets."""

from __future__ import annotations

import errno
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from everclip.reporting.console import as_mirrors, log, set_up_logging
from everclip.reporting.step_progress import StepProgress

SCRIPT = """
from everclip.reporting.console import log, set_up_logging
from everclip.reporting.step_progress import StepProgress
set_up_logging({level!r})
bar = StepProgress("session 1 train", 2)
for _ in range(2):
    bar.advance(0.5)
bar._bar.refresh()
bar.stop()
log.info("session 1/8    65 classes  accuracy  65.69  base  66.17")
log.info("| method | 0 |\\n|--------|---|\\n| ncm    | 1 |")
log.warning("going back one session")
log.info("method.targets=[q,v] [/draft] :dog:\\x1b[2J")
"""
TEXT = """session 1/8    65 classes  accuracy  65.69  base  66.17
| method | 0 |
|--------|---|
| ncm    | 1 |
going back one session
method.targets=[q,v] [/draft] :dog:\\x1b[2J
"""
LEFT = ["10 min", "9 min", "8 min", "6 min", "4 min", "3 min", "2 min"]  # at 90 s a step
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


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        pytest.param(25, [(2, "2 min"), (4, "2 min"), (6, "50 s")], id="several_steps_a_minute"),
        pytest.param(90, [(n, left) for n, left in enumerate(LEFT, start=1)], id="a_step_takes_longer"),
        pytest.param(7, [], id="done_in_a_minute"),
    ],
)
def test_a_log_gets_a_line_every_minute(
    seconds: float, told: list[tuple[int, str]], caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(seconds * tick for tick in range(9))
    progress = StepProgress("session 1 train", 8, clock=lambda: next(clock))
    for step in range(1, 9):
        progress.advance(step / 2)
    progress.stop()
    assert caplog.messages == [f"session 1 train: step {n}/8, loss {n / 2:.3f}, {left} left" for n, left in told]


class Gone(io.StringIO):
    """A stream that nobody reads any more, or whose disk is full."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def write(self, text: str = "") -> int:
        raise OSError(self.code, os.strerror(self.code))

    def flush(self) -> None:
        self.write()


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_work_goes_on_whatever_becomes_of_its_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    monkeypatch.setattr(sys, "stdout", Gone(code))
    with as_mirrors():
        set_up_logging("info")
        log.info("nobody sees this")
        sys.stdout.write("nor this")
        sys.stdout.flush()
    told = capsys.readouterr().err
    lost = f"everclip: stdout cannot be written ([Errno {code}] {os.strerror(code)}); run.log has what it was to show\n"
    assert told == ("" if code == errno.EPIPE else lost)


def test_python_itself_ends_well_when_nothing_can_be_written() -> None:
    code = "import sys; from everclip.reporting.console import as_mirrors\nwith as_mirrors(): print('±' * 10000)"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=full, env=environment, check=False)
    assert done.returncode == 0
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert seen.stdout == b"?" * 10000 + b"\n"


def test_streams_that_are_not_there_take_no_number_of_a_file(tmp_path: Path) -> None:
    code = f"""
from everclip.reporting.console import as_mirrors
with as_mirrors(), open({str(tmp_path / "file")!r}, "w") as file:
    print("shown to nobody")
    assert file.fileno() > 2
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command], check=False).returncode == 0
    assert (tmp_path / "file").read_text() == ""
