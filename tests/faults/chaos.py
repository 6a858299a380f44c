"""Breaks runs on purpose and compares what they end with: `python -m tests.faults.chaos kill --kills 40`.

Runs are children forked from this process, which has imported everything: a kill costs no start-up, and dies as any
other process does. Each is started again with the same command until it ends, and must end with the same bytes as a run
that was left alone. Prints one JSON object; the exit code is 1 if anything differed.

- `kill`: SIGKILL at random moments of a run's whole duration.
- `writes`: SIGKILL inside every write of a file: half written, before and after it is renamed into place.
- `stop`: SIGTERM at random moments; how long until the process has saved and gone.
- `full`: every write in turn meets a full disk, once.
- `disk`: a run on a small file system (tmpfs, needs root) with little room left, then with room, then read-only.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, product
from pathlib import Path
from typing import Any

import torch

import everclip.commands.execute  # noqa: F401 (imported before the children are forked)
from everclip import storage
from everclip.commands import run as cli
from everclip.reporting import figures
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import load_session
from tests.conftest import SMALL

PLACES = ("half", "before", "after")


@dataclass
class Saboteur:
    """Follows the writes of a child and breaks one of them; figures are written as files without a picture.

    Attributes:
        trace: file that gets a line at the beginning and at the end of each write.
        at: number of the write to break, from 1; 0 for none.
        place: where inside it, of `PLACES`, or `full` for a full disk.
    """

    trace: Path
    at: int = 0
    place: str = ""
    _count: int = field(default=0, init=False)
    _armed: bool = field(default=False, init=False)

    def install(self) -> None:
        """Takes the place of what writes files in this process."""
        write, fsync, replace = storage.write_bytes, os.fsync, Path.replace

        def write_bytes(path: Path, content: bytes) -> None:
            self._count += 1
            self._armed = self._count == self.at
            self._note("begin", path)
            write(path, content)
            self._armed = False
            self._note("end", path)

        def fsync_(descriptor: int) -> None:
            if self._armed and self.place == "full":
                self._armed = False
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._armed and self.place == "half":
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                _die()
            fsync(descriptor)

        def replace_(path: Path, target: Any) -> Path:
            if self._armed and self.place == "before":
                _die()
            moved = replace(path, target)
            if self._armed and self.place == "after":
                _die()
            return moved

        storage.write_bytes, os.fsync, Path.replace = write_bytes, fsync_, replace_  # type: ignore[method-assign]
        figures._rendered = lambda figure, suffix: suffix.encode()  # half the time of so small a run

    def _note(self, word: str, path: Path) -> None:
        with self.trace.open("a") as file:
            file.write(f"{word} {path.name}\n")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Command:
    """A run with all its settings, and the folder it works in."""

    words: tuple[str, ...]
    place: Path

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.place / "run")

    @property
    def trace(self) -> Path:
        return self.place.with_suffix(".trace")

    @property
    def output(self) -> str:
        """What the last attempt printed on stderr."""
        return self.place.with_suffix(".err").read_text()

    def start(self, at: int = 0, place: str = "") -> int:
        """Forks an attempt; returns its process id."""
        self.trace.write_text("")
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            for number, name in ((1, ".out"), (2, ".err")):
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                os.dup2(os.open(self.place.with_suffix(name), flags, 0o644), number)
            Saboteur(self.trace, at, place).install()
            sys.argv = ["everclip", f"hydra.run.dir={self.folder.path}", f"paths.outputs={self.place}", *self.words]
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def finish(self, at: int = 0, place: str = "") -> int:
        """An attempt to its end; returns the exit code, negative for a signal."""
        return _code(os.waitpid(self.start(at, place), 0)[1])

    def stage(self) -> str:
        """Where the last attempt is, by its writes: `run.json` is written twice before it says a stage."""
        notes = [line.split() for line in self.trace.read_text().splitlines()]
        if notes and notes[-1][0] == "begin":
            return f"writing {_kind(notes[-1][1])}"
        names = [name for word, name in notes if word == "end"]
        if names.count("run.json") < 3:
            return "loading" if names else "starting"
        run = self.folder.read_run()
        if run.get("state") == "finished":
            return "ending"
        done = len(self.folder.read_sessions())
        if run["stage"] == "evaluating" and done > run["session"]:
            return "finishing" if done == run["sessions"] else "between sessions"
        return str(run["stage"])

    def last_saved(self) -> float:
        """When the state from which a restart goes on was written, 0 if never."""
        files = [*self.folder.path.glob("checkpoints/*.safetensors"), self.folder.path / "sessions.jsonl"]
        return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)


def _kind(name: str) -> str:
    """A file's name without its numbers."""
    return re.sub(r"\d+", "N", name)


def _code(status: int) -> int:
    return os.waitstatus_to_exitcode(status)


def differences(whole: RunFolder, other: RunFolder) -> list[str]:
    """What two finished runs do not have in common, times apart."""
    found = [
        name
        for name in ("accuracy_matrix.csv", "counts.csv")
        if (whole.path / name).read_bytes() != (other.path / name).read_bytes()
    ]
    ours, theirs = whole.read_sessions(), other.read_sessions()
    lines = (other.path / "sessions.jsonl").read_text().splitlines()
    for key in ("index", "accuracy", "losses", "train_steps"):
        if [record.get(key) for record in ours] != [record.get(key) for record in theirs] or len(lines) != len(ours):
            found.append(f"sessions.jsonl: {key}")
    for session in range(len(ours)):
        first, second = (load_session(folder.checkpoint(session))[0] for folder in (whole, other))
        if set(first) != set(second) or any(not torch.equal(first[name], second[name]) for name in first):
            found.append(whole.checkpoint(session).name)
    if other.state != "finished" or other.progress.is_file():
        found.append("state")
    return [*found, *(path.name for path in other.path.rglob(".[!.]*.tmp"))]


class Trials:
    """Runs of one command, each in a place of its own, compared with one that is left alone."""

    def __init__(self, words: Sequence[str], root: Path) -> None:
        self._words = tuple(words)
        self._root = root
        self._count = 0
        self.whole = self.command()
        begin = time.monotonic()
        if self.whole.finish() != 0:
            raise SystemExit(f"the run fails undisturbed: {self.whole.output}")
        self.duration = time.monotonic() - begin
        self.writes = self.whole.trace.read_text().count("begin ")
        self.mismatches: list[str] = []

    def command(self) -> Command:
        """The command in a new place."""
        self._count += 1
        place = self._root / f"trial_{self._count:03d}"
        place.mkdir(parents=True)
        return Command(self._words, place)

    def expect(self, what: str, truth: bool, command: Command) -> None:
        """Notes what did not come out as it must."""
        if not truth:
            self.mismatches.append(f"{command.place.name}: {what}: {command.output[-500:]}")

    def conclude(self, command: Command) -> None:
        """Runs to the end and compares; what is equal is removed."""
        before = len(self.mismatches)
        code = command.finish()
        self.expect(f"exit code {code}", code == 0, command)
        if code == 0:
            differing = differences(self.whole.folder, command.folder)
            self.expect(f"differs in {', '.join(differing)}", not differing, command)
        if len(self.mismatches) == before:
            shutil.rmtree(command.place)


def kill(trials: Trials, wanted: int, moments: random.Random, number: signal.Signals) -> dict[str, Any]:
    """Signals at random moments; every second trial is hit twice.

    The time lost by a kill is from the last save that a restart goes on from (or the attempt's start, if that is later)
    to the kill: that work is done again. Start-up comes on top and is not counted.
    """
    stages: Counter[str] = Counter()
    lost, seconds = list[float](), list[float]()
    while len(lost) < wanted:
        command = trials.command()
        for _ in range(moments.choice((1, 2))):
            begin, start = command.start(), time.time()
            time.sleep(moments.uniform(0, trials.duration))
            if os.waitpid(begin, os.WNOHANG)[0]:
                break  # over before the signal
            if number is signal.SIGKILL:
                os.kill(begin, signal.SIGSTOP)  # the stage is read while nothing moves
            stage, saved = command.stage(), command.last_saved()
            hit, sent = time.time(), time.monotonic()
            os.kill(begin, number)
            code = _code(os.waitpid(begin, 0)[1])
            seconds.append(time.monotonic() - sent)
            stages[stage] += 1
            lost.append(hit - max(saved, start))
            if number is not signal.SIGKILL and stage not in ("starting", "ending"):
                trials.expect(f"exit code {code} in stage {stage}", code in (75, 0), command)
                if code == 75:
                    state = command.folder.state
                    trials.expect(f"state {state} in stage {stage}", state == "preempted", command)
        trials.conclude(command)
    measured = {"seconds_lost": lost} if number is signal.SIGKILL else {"seconds_to_exit": seconds}
    return {"hits": len(lost), "stages": dict(stages.most_common())} | {
        name: {"median": round(statistics.median(values), 3), "max": round(max(values), 3)}
        for name, values in measured.items()
    }


def writes(trials: Trials, broken: Iterable[tuple[int, str]]) -> dict[str, Any]:
    """Breaks each of these writes at its place, once."""
    hits: Counter[str] = Counter()
    for at, place in broken:
        command = trials.command()
        code = command.finish(at, place)
        last = command.trace.read_text().splitlines()
        hits[f"{place} {_kind(last[2 * at - 2].split()[1])}"] += 1
        if place == "full":
            _expect_message(trials, command, code)
        else:
            trials.expect(f"exit code {code} of a kill", code == -signal.SIGKILL, command)
        trials.conclude(command)
    return {"writes": trials.writes, "hits": sum(hits.values()), "places": dict(sorted(hits.items()))}


def _expect_message(trials: Trials, command: Command, code: int) -> None:
    """A full disk ends a run with exit code 1 and a short message that names the file."""
    lines = [line for line in command.output.splitlines() if line.startswith("everclip:")]
    clear = len(lines) == 1 and re.search("cannot be (written|used): ", lines[0]) is not None
    clear = clear and "Traceback" not in command.output
    trials.expect(f"exit code {code}, message", code == 1 and clear, command)


def disk(trials: Trials, rooms: Sequence[int]) -> dict[str, Any]:
    """Runs on a file system with so many KiB of room, then with enough; then on one that is read-only."""
    failed: Counter[str] = Counter()
    for room in rooms:
        command = trials.command()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", command.place], check=True)
        try:
            ballast = command.place / "ballast"
            ballast.write_bytes(bytes((16 << 20) - (room << 10)))
            code = command.finish()
            if code:  # else it fits
                _expect_message(trials, command, code)
            failed[command.output.partition(" cannot be written")[0].rpartition("/")[2] if code else "nowhere"] += 1
            stored = command.folder.read_sessions()
            for session in range(len(stored)):
                load_session(command.folder.checkpoint(session))
            ballast.unlink()
            before = len(trials.mismatches)
            code = command.finish()
            trials.expect(f"exit code {code} with room", code == 0, command)
            if len(trials.mismatches) == before:
                differing = differences(trials.whole.folder, command.folder)
                trials.expect(f"differs in {', '.join(differing)}", not differing, command)
            shutil.rmtree(command.folder.path)
            subprocess.run(["mount", "-o", "remount,ro", command.place], check=True)
            _expect_message(trials, command, command.finish())
        finally:
            subprocess.run(["umount", command.place], check=True)
    return {"rooms_kib": list(rooms), "failed_at": dict(failed)}


def main(words: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", help="of kill, writes, stop, full and disk, with commas between them")
    parser.add_argument("--kills", type=int, default=40, help="signals in all, for kill and stop")
    parser.add_argument("--rooms", type=int, nargs="+", default=[4, 40, 100, 200, 400], help="KiB, for disk")
    parser.add_argument("--every", type=int, default=1, help="only every n-th write")
    parser.add_argument("--turns", action="store_true", help="one place for each write, in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, required=True, help="an empty folder; trials that differed are left in it")
    parser.add_argument("overrides", nargs="*", help="of the small run; with --plain of the default run")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_intermixed_args(words)
    torch.set_num_threads(1)
    small = () if options.plain else (*SMALL, "checkpoint.every_n_steps=2")
    trials = Trials((*small, *options.overrides), options.root)
    numbers = range(1 + options.seed % options.every, trials.writes + 1, options.every)
    moments = random.Random(options.seed)
    modes: dict[str, Callable[[], dict[str, Any]]] = {
        "kill": lambda: kill(trials, options.kills, moments, signal.SIGKILL),
        "stop": lambda: kill(trials, options.kills, moments, signal.SIGTERM),
        "writes": lambda: writes(trials, zip(numbers, cycle(PLACES)) if options.turns else product(numbers, PLACES)),
        "full": lambda: writes(trials, [(number, "full") for number in numbers]),
        "disk": lambda: disk(trials, options.rooms),
    }
    found = {mode: modes[mode]() for mode in options.modes.split(",")}
    facts = {"overrides": options.overrides, "run_seconds": round(trials.duration, 2)}
    sys.stdout.write(json.dumps(facts | found | {"mismatches": trials.mismatches}, indent=1) + "\n")
    return 1 if trials.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
