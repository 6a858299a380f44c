"""What runs are expected to cost: kept beside the seeds of a setting, summed up over a sweep. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from everclip import storage
from everclip.sweeps.sweep import Job


@dataclass(frozen=True)
class Estimate:
    """Expected cost of one run.

    Attributes:
        seconds: from the command to the result.
        devices: processes, each with a device of its own.
        device: `cpu`, `cuda`.
        memory_mb: highest use of the device's memory, on a CPU of the process's, by one process.
        disk_mb: of the run folder.
    """

    seconds: float
    devices: int
    device: str
    memory_mb: float
    disk_mb: float

    @property
    def hours(self) -> float:
        """Hours of a device."""
        return self.seconds * self.devices / 3600

    def __str__(self) -> str:
        kind = "GPU" if self.device == "cuda" else "process"
        return (
            f"{self.seconds / 60:.1f} min, {self.hours:.2f} {kind}-hours on {self.devices}, "
            f"{self.memory_mb:.0f} MB of memory each, {self.disk_mb:.1f} MB on disk"
        )


def plan_path(folder: Path) -> Path:
    """Where the estimate for a run folder and its other seeds is kept."""
    return folder.parent / "plan.json"


def write(folder: Path, estimate: Estimate) -> None:
    """Keeps the estimate for a run folder."""
    storage.write_json(plan_path(folder), asdict(estimate))


def lines(jobs: Sequence[Job]) -> list[str]:
    """One line per setting of these runs, and their sum; of settings that could not be measured it says so."""
    settings: dict[Path, list[Job]] = {}
    for job in jobs:
        settings.setdefault(plan_path(Path(job.folder)), []).append(job)
    told, known = [], []
    for path, members in settings.items():
        title = f"{len(members)} x {'-'.join(filter(None, members[0].parts[:3]))} ({path.parent.name})"
        if path.is_file():
            known += [Estimate(**json.loads(path.read_text()))] * len(members)
            told.append(f"{title}: each {known[-1]}")
        else:
            told.append(f"{title}: not known")
    sums = [sum(getattr(one, name) for one in known) for name in ("hours", "disk_mb", "seconds")]
    told.append(
        f"{len(known)} of {len(jobs)} runs: {sums[0]:.2f} device-hours, {sums[2] / 60:.1f} min one after the other, "
        f"{sums[1]:.0f} MB on disk"
    )
    return told
