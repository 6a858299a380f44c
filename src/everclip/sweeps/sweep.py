"""A sweep: its runs, what tells them apart, and the file that lists them. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from everclip import storage
from everclip.config.names import settings_of
from everclip.digest import json_sha256
from everclip.errors import ConfigError, MissingError
from everclip.runs.again import quoted
from everclip.runs.shapes import MANY, list_of, mapping, maybe, one_of, record, text, whole

# What the launcher of a sweep on this machine says of a job; whether it is true still, its run folder and lock tell.
COMPLETED, FAILED, IN_FLIGHT, WAITING = "completed", "failed", "in flight", "waiting"
LISTED = record(
    {
        "folder": text,
        "words": list_of(text),
        **dict.fromkeys(("nodes", "processes"), whole(0, MANY)),
        "gpus": maybe(whole(0, MANY)),
        "state": maybe(one_of(COMPLETED, FAILED, IN_FLIGHT, WAITING)),
        **dict.fromkeys(("error", "slurm"), maybe(text)),
    },
    required=("folder", "words"),
)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        folder: the run folder, computed once and handed to every process of the run.
        words: what follows `everclip` on the command line.
        nodes: machines.
        processes: per machine.
        gpus: per machine; None where that is left to the machine.
        state: `completed`, `failed`, `in flight` or `waiting`; None where its launcher does not see it end.
        error: why it ended without a result, as far as its launcher knows.
        slurm: job id of its last submission, `<array>_<task>`.
    """

    folder: str
    words: list[str]
    nodes: int = 1
    processes: int = 1
    gpus: int | None = None
    state: Literal["completed", "failed", "in flight", "waiting"] | None = None
    error: str | None = None
    slurm: str | None = None

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Method and sequence from the run folder's names, what else the command says (may be empty), and the seed."""
        *_, sequence, method, _, _, seed = ("?",) * 5 + Path(self.folder).parts
        return method, sequence, ",".join(settings_of(self.words)), seed

    @property
    def name(self) -> str:
        """The parts in one word."""
        return "-".join(filter(None, self.parts))


class Sweep:
    """The runs of a sweep; `outputs/sweeps/<id>.json` lists them, the id follows from their folders.

    Args:
        outputs: where the list goes.
        jobs: the runs.
        cwd: where the sweep was started.
    """

    def __init__(self, outputs: Path, jobs: Sequence[Job], cwd: str) -> None:
        identity = json_sha256(sorted(job.folder for job in jobs))[:8]
        self.path = outputs / "sweeps" / f"{identity}.json"
        self.jobs = list(jobs)
        self.cwd = cwd
        self.process: dict[str, Any] = {}  # which starts the jobs, as a lock names its holder
        self.kept: set[int] = set()  # indices of jobs whose configuration this process has kept

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """The sweep that a file lists.

        Raises:
            MissingError: no such file, or another file.
        """
        try:
            content = json.loads(path.read_text())
            jobs, cwd, process = content["jobs"], content["cwd"], content.get("process", {})
            if wrong := list_of(LISTED)(jobs) or text(cwd) or mapping(process):
                raise ValueError(wrong)
            known = [{key: value for key, value in job.items() if key in Job.__dataclass_fields__} for job in jobs]
            sweep = cls(path.parents[1], [Job(**job) for job in known], cwd)
            sweep.process = process
            if (planned := content.get("outputs")) is not None:
                sweep.jobs = [_moved(job, Path(planned), path.parents[1].absolute()) for job in sweep.jobs]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise MissingError(f"{path} does not list a sweep: {reason}") from error
        sweep.path = path
        return sweep

    def write(self) -> None:
        """Writes the list."""
        jobs = [asdict(job) for job in self.jobs]
        outputs = str(self.path.parents[1].absolute())
        storage.write_json(self.path, {"cwd": self.cwd, "outputs": outputs, "process": self.process, "jobs": jobs})

    def note(self, facts: Mapping[int, Mapping[str, Any]]) -> None:
        """Writes facts about jobs, by their index."""
        for index, changes in facts.items():
            self.jobs[index] = replace(self.jobs[index], **changes)
        self.write()

    def keep_notes(self) -> None:
        """Takes over what an earlier start of the same sweep noted."""
        if self.path.is_file():
            earlier = {job.folder: job for job in Sweep.read(self.path).jobs}
            self.jobs = [replace(job, slurm=earlier[job.folder].slurm) for job in self.jobs]


def _moved(job: Job, planned: Path, outputs: Path) -> Job:
    """A run below the outputs that list it now, where those that it was planned below are no more: they were moved."""
    if planned == outputs or planned.is_dir() or not Path(job.folder).is_relative_to(planned):
        return job
    folder = outputs / Path(job.folder).relative_to(planned)
    kept = [word for word in job.words if not word.startswith(("paths.outputs=", "hydra.run.dir="))]
    words = [*kept, f"paths.outputs={quoted(outputs)}", f"hydra.run.dir={quoted(folder)}"]
    return replace(job, folder=str(folder), words=words)


def distinct(jobs: Iterable[tuple[Job, str]]) -> list[Job]:
    """The runs of a sweep, each once; they come with a digest of all their settings.

    Raises:
        ConfigError: two runs share a folder though their settings differ: the second would only show the result of the
            first; says in which settings they differ.
    """
    first: dict[str, tuple[Job, str]] = {}
    for job, settings in jobs:
        other, others_settings = first.setdefault(job.folder, (job, settings))
        if settings != others_settings:
            ours, theirs = (" ".join(_apart(a.words, b.words)) for a, b in ((job, other), (other, job)))
            raise ConfigError(
                f"{theirs} and {ours} are one and the same run ({job.folder}): such settings change no result; "
                "leave one of them out, or give each a place of its own with paths.outputs"
            )
    return [job for job, _ in first.values()]


def _apart(words: Iterable[str], others: Iterable[str]) -> list[str]:
    return [word for word in words if word not in set(others)]
