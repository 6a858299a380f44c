"""What a person sees: log lines, errors, a configuration."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import rich.console
from rich.highlighter import RegexHighlighter
from rich.text import Text
from rich.theme import Theme
from typing_extensions import override

from everclip.reporting.plain import plain

if TYPE_CHECKING:
    from omegaconf import DictConfig


class _Highlighter(RegexHighlighter):
    """Emphasis in session lines and Markdown tables; the characters stay as they are in a file."""

    base_style = "everclip."
    highlights = (
        r"^(?P<session>session \d+/\d+) .*?(?P<entry>\d+\.\d\d)",
        r"(?m)^(?P<header>\| method .*)$",
        r"(?m)^(?P<rule>\|[-|]+)$",
    )


STYLES = {"session": "cyan", "entry": "bold green", "header": "bold", "rule": "dim", "warning": "yellow"}


class _Console(rich.console.Console):
    """Shows texts as they are: nothing in them is markup, the name of an emoji, or an order to the terminal."""

    @override
    def print(self, *objects: Any, **options: Any) -> None:
        texts = (plain(each, keep="\n\t") if isinstance(each, str) else each for each in objects)
        super().print(*texts, **options)


class _Plain(logging.Formatter):
    """Messages without orders to the terminal that shows them, now or when it shows their file."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record), keep="\n\t")


log = logging.getLogger("everclip")
terminal = _Console(
    markup=False,
    emoji=False,
    highlight=False,
    highlighter=_Highlighter(),
    soft_wrap=True,  # long lines are the terminal's business
    theme=Theme({f"everclip.{name}": style for name, style in STYLES.items()}),
)


class _Mirror:
    """A stream that never fails: nobody may read it any more, the disk behind it be full, the terminal be gone."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.lost: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: closed
            self.lost = error
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.lost = error

    def settle(self) -> None:
        """Flushes what is left; what still cannot be written goes nowhere, so that Python does not fail at its end."""
        self.flush()
        with suppress(OSError, ValueError):
            if self.lost is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def as_mirrors() -> Iterator[None]:
    """Inside, what goes to stdout and stderr is shown where it can be, and no work ends because it cannot."""
    # A number of a stream that is not there would go to the next file opened, and get what others print.
    streams = [s or Path(os.devnull).open("w") for s in (sys.stdout, sys.stderr)]  # noqa: SIM115 (till the end)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal has every character
    shown, told = map(_Mirror, streams)
    with redirect_stdout(shown), redirect_stderr(told):
        try:
            yield
        finally:
            shown.settle()
            if shown.lost is not None and not isinstance(shown.lost, BrokenPipeError):
                told.write(f"everclip: stdout cannot be written ({shown.lost}); run.log has what it was to show\n")
            told.settle()


class _ConsoleHandler(logging.Handler):
    """Prints messages through the console that owns the progress bar, so that neither tears the other."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "everclip.warning" if record.levelno >= logging.WARNING else None
        terminal.print(self.format(record), highlight=True, style=style)


def set_up_logging(level: str) -> None:
    """Sends Everclip's messages to the console."""
    log.handlers = [_ConsoleHandler()]
    log.setLevel(level.upper())
    log.propagate = False


def tell_on_stderr(program: str) -> None:
    """Sends Everclip's messages to stderr, for commands whose output others read."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain(f"{program}: %(message)s"))
    log.handlers = [handler]
    log.propagate = False


def tell_error(program: str, error: object) -> None:
    """Prints an error of one or two lines to stderr."""
    sys.stderr.write(plain(f"{program}: {error}", keep="\n\t") + "\n")


def quieten_libraries() -> None:
    """Hides the chatter of the libraries below; they set their levels when imported, so call this afterwards."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # any machine of a cluster has it
    warnings.filterwarnings("ignore", message=".*functional.all_gather is deprecated")  # Lightning 2.6 on torch 2.15


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Also writes every message, with its time, to the end of a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def print_config(config: DictConfig) -> None:
    """Shows a composed configuration as a tree."""
    from omegaconf import OmegaConf
    from rich.tree import Tree

    tree = Tree("configuration")
    for name, node in config.items():
        if OmegaConf.is_config(node):
            tree.add(str(name)).add(Text(OmegaConf.to_yaml(node, resolve=True).rstrip()))
        else:
            tree.add(Text(": ".join(map(str, (name, node)))))
    terminal.print(tree)
