"""The run folder: its files, their order of writing, and who works in it. Needs no model and no torch."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from everclip import storage
from everclip.digest import json_sha256
from everclip.runs import lock, shapes
from everclip.runs.scores import heads, lines_of

log = logging.getLogger("everclip")
WRITTEN = tuple(f".{name}.*.tmp" for name in ("*.json", "*.jsonl", "*.csv", "config.yaml"))
WRITTEN += tuple(f"{place}/.*.tmp" for place in ("checkpoints", "kept", "plots"))
ABANDONED = 60.0  # seconds after which nobody asks for a lock any more


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def numbered(name: object) -> tuple[list[tuple[str, float]], str]:
    """A key that sorts names by the numbers in them: `seed2` before `seed10`, `lr=1e-4` before `lr=0.01`."""
    text = str(name)
    parts = re.findall(r"(\D*)(\d+(?:\.\d+)?(?:e-?\d+)?|$)", text)
    return [(word, float(number or 0)) for word, number in parts], text


class RunFolder:
    """Files of one run. `sessions.jsonl` is the record of what is done; matrix and summary are made from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path / "lock.json"
        self._token = ""
        self._lines: dict[tuple[int, int, str], tuple[dict[str, Any], dict[str, str]]] = {}

    @property
    def state(self) -> str | None:
        """`running`, `preempted`, `failed`, `finished`; None for a folder without a run."""
        state = self.read_run().get("state")
        return None if state is None else str(state)

    def read_run(self) -> dict[str, Any]:
        """Content of `run.json`, empty if there is none."""
        return _read_checked(self.path / "run.json", shapes.RUN)

    def update_run(self, **facts: Any) -> None:
        """Changes facts in `run.json`."""
        _write_checked(self.path / "run.json", self.read_run() | facts)

    def describe(self, tags: Iterable[str] | None, notes: str | None) -> None:
        """Takes over tags and notes that a command gives, and says so where the run had others; None leaves them."""
        known = self.read_run()
        given = {"tags": None if tags is None else list(dict.fromkeys(tags)), "notes": notes}
        given = {name: value for name, value in given.items() if value is not None and value != known.get(name)}
        for name, value in given.items():
            if known.get(name) or known.get("state") == "finished":
                words = (", ".join(own) if isinstance(own, list) else own for own in (value, known.get(name)))
                log.info("%s are now %s, before: %s", name, *(own or "none" for own in words))
        if given:
            self.update_run(**given)

    def read_summary(self) -> dict[str, Any]:
        """Content of `summary.json`, empty if there is none."""
        return _read_checked(self.path / "summary.json", shapes.summary)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replaces `summary.json`."""
        _write_checked(self.path / "summary.json", summary)

    def checkpoint(self, session: int) -> Path:
        """Path of a session's checkpoint."""
        return self.path / "checkpoints" / f"session_{session:02d}.safetensors"

    def checkpoints(self) -> dict[int, Path]:
        """The stored sessions' checkpoints by session, in order."""
        found = {
            path.stem.removeprefix("session_"): path for path in self.path.glob("checkpoints/session_*.safetensors")
        }
        numbers = {int(number): path for number, path in found.items() if number.isdecimal()}
        return dict(sorted(numbers.items()))

    def kept(self, session: int) -> Path:
        """Path of what is kept of a session's tasks for later evaluations."""
        return self.path / "kept" / f"session_{session:02d}.safetensors"

    @property
    def progress(self) -> Path:
        """Path of the record of a session in training."""
        return self.path / "checkpoints" / "progress.safetensors"

    @property
    def phase_start(self) -> Path:
        """Path of the record of the state from which the phase in training was prepared."""
        return self.path / "checkpoints" / "phase_start.safetensors"

    @property
    def begun(self) -> bool:
        """Whether there is anything that a run would go on from."""
        return self.progress.is_file() or bool(self.read_sessions()) or self.checkpoint(0).is_file()

    def remove_progress(self) -> None:
        """Removes the records of a session in training."""
        for path in (self.progress, self.phase_start):
            path.unlink(missing_ok=True)

    def read_sessions(self) -> list[dict[str, Any]]:
        """Records of the finished sessions, up to the first line that is damaged, changed by hand or out of order."""
        records: list[dict[str, Any]] = []
        path = self.path / "sessions.jsonl"
        for line in _read_bytes(path).splitlines():
            record = _parse(line)
            if not _fits(record, shapes.SESSION) or record["index"] != len(records):
                log.warning(
                    "%s: line %d is damaged, changed or out of order; going on from before it", path, len(records) + 1
                )
                break
            records.append(record)
        return records

    def write_sessions(self, records: list[dict[str, Any]], num_tasks: int, entry: str = "accuracy") -> None:
        """Replaces `sessions.jsonl`, then the matrix of the entry and the other files that follow from it.

        The lines about a record are made once, so it must not change any more.
        """
        keys = [(id(record), num_tasks, entry) for record in records]
        self._lines = {
            key: self._lines.get(key)
            or (record, {"sessions.jsonl": _line(record)} | lines_of(number, record, *key[1:]))
            for number, (key, record) in enumerate(zip(keys, records, strict=True))
        }
        for name, head in ({"sessions.jsonl": ""} | heads(num_tasks, entry)).items():
            storage.write_text(self.path / name, head + "".join(self._lines[key][1][name] for key in keys))

    def lock(self, *, force: bool = False) -> None:
        """Takes the folder for this process, also from one that is known to be gone.

        Args:
            force: take it from a process of another machine or container, which cannot be seen from here.

        Raises:
            LockedError: another process works here; says which.
            StorageError: the folder cannot be written to.
        """
        self._token = lock.take(self._lock, now(), force=force)

    def unlock(self) -> None:
        """Gives the folder back."""
        lock.give_back(self._lock, self._token)

    def sweep(self) -> None:
        """Removes what a killed process of this run was writing; only for who holds the lock.

        Others write here without it: those that ask for it, and what is made of a run, as a report.
        """
        for pattern in WRITTEN:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)
        for path in self.path.glob(".*lock.*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()

    def forget(self) -> None:
        """Removes the traces of a run that was refused before it began."""
        for name in ("run.json", "run.log"):
            (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes what an earlier run left, but for the logs."""
        for name in ("run.json", "sessions.jsonl", "summary.json", "counts.csv", "scores.csv", "train.csv"):
            (self.path / name).unlink(missing_ok=True)
        for pattern in ("*_matrix.csv", "checkpoints/*.safetensors", "kept/*.safetensors"):
            for path in self.path.glob(pattern):
                path.unlink()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record | {"check": json_sha256(record)}, allow_nan=False) + "\n"


def _write_checked(path: Path, facts: dict[str, Any]) -> None:
    """Writes JSON, a line for each fact: some are long lists of files, and are written several times in a session."""
    checked = facts | {"check": json_sha256(facts)}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(fact, allow_nan=False)}" for name, fact in checked.items())
    storage.write_text(path, f"{{\n{lines}\n}}\n")


def _read_checked(path: Path, shape: shapes.Shape) -> dict[str, Any]:
    """What `_write_checked` wrote, empty if it is not that any more."""
    facts = _read_json(path)
    if os.path.lexists(path) and not _fits(facts, shape):
        log.warning("%s is damaged or changed by hand; what it says is not used", path)
        return {}
    return facts


def _fits(facts: dict[str, Any], shape: shapes.Shape) -> bool:
    """Whether facts are what was written with their `check`, which is taken out, and have the shape of their file."""
    with suppress(ValueError, RecursionError):  # nothing that this program can have written
        return facts.pop("check", None) == json_sha256(facts) and not shape(facts)
    return False


def _read_json(path: Path) -> dict[str, Any]:
    return _parse(_read_bytes(path))


def _read_bytes(path: Path) -> bytes:
    """The content of a file; of anything else, or of one that cannot be read, nothing."""
    with suppress(OSError):
        return path.read_bytes() if path.is_file() else b""
    return b""


def _parse(text: bytes) -> dict[str, Any]:
    """A JSON object, empty if it is damaged."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        return value if isinstance(value, dict) else {}
    return {}
