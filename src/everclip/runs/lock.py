"""A file that says who works in a folder, taken by one of all processes and machines that ask for it at once."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from everclip import storage
from everclip.errors import LockedError, StorageError
from everclip.runs import slurm_queue

log = logging.getLogger("everclip")
NOT_CONTAINED = "pid:[4026531836]"  # the first space of process numbers that a Linux kernel makes


def take(path: Path, since: str, *, force: bool = False) -> str:
    """Takes a lock, also from a process that is known to be gone; returns the token by which it is given back.

    Args:
        path: of the lock.
        since: what it says of the time.
        force: take it from a process that cannot be seen from here.

    Raises:
        LockedError: another process has it; says which.
        StorageError: the folder cannot be written to.
    """
    mine = this_process() | {"since": since, "token": secrets.token_hex(8)}
    aside = path.with_name(f".lock.{mine['token']}")
    storage.write_json(aside, mine)
    try:
        with _one_at_a_time(path.parent):
            for _ in range(3):
                if _put(aside, path):
                    return str(mine["token"])
                holder = read(path)
                if not is_gone(holder) and not (force if not _is_visible(holder) else holder["pid"] == mine["pid"]):
                    break  # what has this process's number has ended, or is this process
                log.warning("taking over from process %s on %s", holder.get("pid"), holder.get("host"))
                _remove(path, holder)
    finally:
        aside.unlink(missing_ok=True)
    raise LockedError(f"{path.parent} is in use by {_told(holder)}")


def give_back(path: Path, token: str) -> None:
    """Removes a lock unless another process has taken it meanwhile."""
    if read(path).get("token") == token:
        path.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Who holds a lock, empty if nobody does or it is damaged."""
    with suppress(OSError, ValueError):
        holder = json.loads(path.read_bytes())
        return holder if isinstance(holder, dict) else {}
    return {}


def is_gone(holder: Mapping[str, Any]) -> bool:
    """Whether the process that a lock names is known to have ended."""
    if not holder:
        return True
    if _is_visible(holder):
        return not _is_alive(holder)
    here = this_process()
    restarted = all(holder.get(key) == here[key] for key in ("host", "machine", "pids")) and here["machine"]
    if restarted and here["pids"] == NOT_CONTAINED:  # a space of numbers inside a container is told by nothing else
        return True
    return slurm_queue.is_over(str(holder.get("slurm") or ""))


def _is_visible(holder: Mapping[str, Any]) -> bool:
    """Whether a process of that number would be the holder: on this machine, since its start, outside of containers.

    Machines and containers may share a name, hence the rest; older locks have only the name.
    """
    here = this_process()
    return all(holder.get(key, here[key]) == here[key] for key in ("host", "boot", "pids"))


def this_process() -> dict[str, Any]:
    """What tells this process from all others that might ever ask; None where the system does not say."""
    facts: dict[str, str | None] = {"boot": None, "machine": None, "pids": None}
    with suppress(OSError):
        facts["pids"] = os.readlink("/proc/self/ns/pid")
        facts["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        facts["machine"] = Path("/etc/machine-id").read_text().strip()
    number = os.getpid()
    return facts | {
        "host": socket.gethostname(), "pid": number, "started": _started(number), "slurm": slurm_queue.this_start(),
    }  # fmt: skip


def _told(holder: Mapping[str, Any]) -> str:
    place, remedy = str(holder.get("host")), "stop it, or wait for it"
    if not _is_visible(holder):
        remedy = "if that process is gone, add force=true"
        if holder.get("host") == socket.gethostname():
            place += ", a container or machine of the same name"
    return f"process {holder.get('pid')} on {place} since {holder.get('since')}; {remedy}"


def _put(aside: Path, path: Path) -> bool:
    """Puts a finished lock into place; whether there was none."""
    try:
        os.link(aside, path)  # holds on network file systems too, where `flock` may not
    except FileExistsError:
        return False
    except OSError:  # no hard links here
        try:
            with path.open("xb") as file:
                file.write(aside.read_bytes())
        except FileExistsError:
            return False
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}") from error
    return True


def _remove(path: Path, holder: Mapping[str, Any]) -> None:
    """Removes a lock that was found to be of a holder, and puts it back if it turns out to be of another one."""
    gone = path.with_name(f".lock.{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        path.rename(gone)
        if read(gone) != holder:
            _put(gone, path)
        gone.unlink()


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets the processes of this machine in one after the other, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_alive(holder: Mapping[str, Any]) -> bool:
    """Whether the process still runs; its number may have gone to another process since."""
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    with suppress(PermissionError):  # alive, of another user
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return holder.get("started") in (None, _started(pid))


def _started(pid: int) -> str | None:
    """When a process began, in the system's own count; None where the system does not tell."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None
