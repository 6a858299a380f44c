"""The run folder: its files, their order of writing, and who works in it. Needs no model and no torch."""

from __future__ import annotations

import json
import logging
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from everclip import storage
from everclip.digest import json_sha256
from everclip.errors import LockedError
from everclip.runs import slurm_queue
from everclip.runs.scores import files_of, table_of

log = logging.getLogger("everclip")


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunFolder:
    """Files of one run. `sessions.jsonl` is the record of what is done; matrix and summary are made from it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def state(self) -> str | None:
        """`running`, `preempted`, `failed`, `finished`; None for a folder without a run."""
        state = self.read_run().get("state")
        return None if state is None else str(state)

    def read_run(self) -> dict[str, Any]:
        """Content of `run.json`, empty if there is none."""
        return _read_checked(self.path / "run.json")

    def update_run(self, **facts: Any) -> None:
        """Changes facts in `run.json`."""
        _write_checked(self.path / "run.json", self.read_run() | facts)

    def read_summary(self) -> dict[str, Any]:
        """Content of `summary.json`, empty if there is none."""
        return _read_checked(self.path / "summary.json")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replaces `summary.json`."""
        _write_checked(self.path / "summary.json", summary)

    def checkpoint(self, session: int) -> Path:
        """Path of a session's checkpoint."""
        return self.path / "checkpoints" / f"session_{session:02d}.safetensors"

    @property
    def progress(self) -> Path:
        """Path of the record of a session in training."""
        return self.path / "checkpoints" / "progress.safetensors"

    @property
    def phase_start(self) -> Path:
        """Path of the record of the state from which the phase in training was prepared."""
        return self.path / "checkpoints" / "phase_start.safetensors"

    def remove_progress(self) -> None:
        """Removes the records of a session in training."""
        for path in (self.progress, self.phase_start):
            path.unlink(missing_ok=True)

    def read_sessions(self) -> list[dict[str, Any]]:
        """Records of the finished sessions, up to the first line that is damaged, changed by hand or out of order."""
        records: list[dict[str, Any]] = []
        path = self.path / "sessions.jsonl"
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            record = _parse(line)
            if record.pop("check", None) != json_sha256(record) or record.get("index") != len(records):
                log.warning(
                    "%s: line %d is damaged, changed or out of order; going on from before it", path, len(records) + 1
                )
                break
            records.append(record)
        return records

    def write_sessions(self, records: list[dict[str, Any]], num_tasks: int, entry: str = "accuracy") -> None:
        """Replaces `sessions.jsonl`, then the matrix of the entry and the other files that follow from it."""
        checked = [record | {"check": json_sha256(record)} for record in records]
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in checked)
        storage.write_text(self.path / "sessions.jsonl", lines)
        for name, text in files_of(table_of(records, num_tasks), entry).items():
            storage.write_text(self.path / name, text)

    def lock(self, *, force: bool = False) -> None:
        """Takes the folder for this process, also from one of this host, or of a SLURM job, that is gone.

        The lock is a file that only one of two processes can link into place, which holds on network file systems too,
        where `flock` may not.

        Args:
            force: take it from a process of another host, which cannot be seen from here.

        Raises:
            LockedError: another process works here; says which.
            StorageError: the folder cannot be written to.
        """
        path = self.path / "lock.json"
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()), "since": now()}
        mine["slurm"] = slurm_queue.this_start()
        aside = path.with_name(f".lock.{mine['host']}.{mine['pid']}.json")
        storage.write_json(aside, mine)
        try:
            for _ in range(3):
                with suppress(FileExistsError):
                    os.link(aside, path)
                    return
                holder = _read_json(path)
                if holder.get("host") != mine["host"]:
                    gone = force or not holder or slurm_queue.is_over(holder.get("slurm") or "")
                    free, remedy = gone, "if that process is gone, add force=true"
                else:
                    free, remedy = not _alive(holder), "stop it, or wait for it"
                if not free:
                    break
                log.warning("taking over from process %s on %s", holder.get("pid"), holder.get("host"))
                path.unlink(missing_ok=True)
        finally:
            aside.unlink(missing_ok=True)
        raise LockedError(
            f"{self.path} is in use by process {holder.get('pid')} on {holder.get('host')} "
            f"since {holder.get('since')}; {remedy}"
        )

    def unlock(self) -> None:
        """Gives the folder back."""
        (self.path / "lock.json").unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what a killed process was writing; only for who holds the lock."""
        for path in self.path.rglob(".*.tmp"):
            if not path.name.startswith("..lock"):  # somebody who asks for the lock right now
                path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Removes the traces of a run that was refused before it began."""
        for name in ("run.json", "run.log"):
            (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes what an earlier run left, but for the logs."""
        for name in ("run.json", "sessions.jsonl", "summary.json", "counts.csv", "scores.csv", "train.csv"):
            (self.path / name).unlink(missing_ok=True)
        for pattern in ("*_matrix.csv", "checkpoints/*.safetensors"):
            for path in self.path.glob(pattern):
                path.unlink()


def _write_checked(path: Path, facts: dict[str, Any]) -> None:
    storage.write_json(path, facts | {"check": json_sha256(facts)})


def _read_checked(path: Path) -> dict[str, Any]:
    """What `_write_checked` wrote, empty if it is not that any more."""
    facts = _read_json(path)
    if path.is_file() and facts.pop("check", None) != json_sha256(facts):
        log.warning("%s is damaged or changed by hand; what it says is not used", path)
        return {}
    return facts


def _read_json(path: Path) -> dict[str, Any]:
    return _parse(path.read_bytes()) if path.is_file() else {}


def _parse(text: bytes) -> dict[str, Any]:
    """A JSON object, empty if it is damaged."""
    with suppress(ValueError):
        value = json.loads(text)
        return value if isinstance(value, dict) else {}
    return {}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock still runs; its number may have gone to another process since."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    with suppress(PermissionError):  # alive, of another user
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return holder.get("started") in (None, _started(pid))


def _started(pid: int) -> str | None:
    """When a process began, in the system's own count; None where the system does not tell."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None
