"""What SLURM says of its jobs, asked through its programs; silent where there are none."""

from __future__ import annotations

import os
import shutil
import subprocess


def this_start() -> str | None:
    """Job and number of its start that this process belongs to, `<array>_<task>/<start>`; None outside of SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")
    return None if job is None else f"{job}/{os.environ.get('SLURM_RESTART_COUNT', 0)}"


def is_over(start: str) -> bool:
    """Whether a start of a job, as `this_start` named it, is known to have ended; of "" nothing is known."""
    job, own = start.partition("/")[0], this_start()
    if own is not None and own.partition("/")[0] == job:
        return own != start  # the job was put back into the queue and starts again
    if not job or shutil.which("squeue") is None:
        return False
    asked = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True)
    return "Invalid job id" in asked.stderr or (asked.returncode == 0 and asked.stdout.strip() in ("", "PENDING"))


def states() -> dict[str, str]:
    """The state (PENDING, RUNNING, ...) of this user's jobs in the queue, by `<array>_<task>`."""
    if shutil.which("squeue") is None:
        return {}
    listed = subprocess.run(["squeue", "--me", "-h", "-r", "-o", "%i %T"], capture_output=True, text=True)
    return dict(line.split() for line in listed.stdout.splitlines())
