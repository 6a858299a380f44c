"""Submits the runs of a sweep to SLURM as a job array: one plain script that anyone can read, and no pickled code.

The script starts `everclip` with `srun`, so that warnings before the time limit and `scancel --signal=USR1` reach the
run's processes themselves. A run that stopped for such a signal exits with 75, and its task puts itself back into the
queue; after a SIGTERM, SLURM has ended the script too, and decides itself: cancelled or preempted.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from everclip import storage
from everclip.errors import ConfigError, MissingError
from everclip.runs import slurm_queue
from everclip.sweeps import composed
from everclip.sweeps.launchers import COMMAND
from everclip.sweeps.sweep import Job, Sweep

SCRIPT = """\
#!/usr/bin/env bash
# {count} runs of Everclip, one task each; the same everclip command again submits what is left.
{directives}

case $SLURM_ARRAY_TASK_ID in
{cases}
esac
task=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
scontrol update jobid="$task" name="$name"  # squeue then says what runs
export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}  # srun does not take it over by itself
{setup}
export {variable}={jobs}/$SLURM_ARRAY_TASK_ID.yaml
trap : USR1  # a signal for the run must not end this script
srun --wait=120 {command} "${{words[@]}}"
code=$?
{again}exit $code
"""
AGAIN = """\
# 75: the run was told to stop, has saved, and goes on from there; 138, 143: SIGUSR1, or a preemption's SIGTERM, met it
# before Python handles signals. A cancelled job does not come here: its SIGTERM ends this script.
case $code in 75 | 138 | 143) scontrol requeue "$task" ;; esac
"""


@dataclass(frozen=True)
class Options:
    """What the queue is asked for; machines, processes and GPUs follow from `trainer`.

    Attributes:
        partition: null: the cluster's default; likewise `account`, `qos`, `constraint`, `time`, `memory` (per machine).
        cpus_per_task: per process.
        gpus_per_node: null: as many as `trainer.devices` under `trainer=gpu`, none otherwise.
        max_parallel: tasks at once; null: no limit.
        warning: seconds before the time limit at which a run is told to save and stop.
        requeue: goes back into the queue after such a stop, and after the failure of a machine.
        setup: shell lines before the run.
        extra: more options of sbatch.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = None
    memory: str | None = None
    cpus_per_task: int | None = None
    gpus_per_node: int | str | None = None
    max_parallel: int | None = None
    warning: int = 120
    requeue: bool = True
    setup: Sequence[str] = field(default_factory=list)
    extra: Sequence[str] = field(default_factory=list)


def log_path(sweep: Sweep, index: int) -> Path:
    """Where a task's output goes, appended at every start."""
    return sweep.path.with_suffix("") / "slurm" / f"{index}.log"


def script(sweep: Sweep, indices: Sequence[int], options: Options) -> str:
    """The job array's script for jobs that ask for the same machines."""
    cases = []
    for index in indices:
        job = sweep.jobs[index]
        cases.append(f"  {index}) name={shlex.quote(job.name)} words=({shlex.join(job.words)}) ;;")
    return SCRIPT.format(
        count=len(indices),
        directives="\n".join(f"#SBATCH {line}" for line in directives(sweep, indices, options)),
        cases="\n".join(cases),
        setup="".join(f"{line}\n" for line in options.setup),
        variable=composed.VARIABLE,
        jobs=shlex.quote(str(composed.path_of(sweep, 0).parent)),
        command=shlex.join(COMMAND),
        again=AGAIN if options.requeue else "",
    )


def directives(sweep: Sweep, indices: Sequence[int], options: Options) -> list[str]:
    """Options of sbatch."""
    jobs = [sweep.jobs[index] for index in indices]
    logs = str(log_path(sweep, 0).parent).replace("%", "%%")
    asked = {
        "job-name": array_name(jobs),
        "array": ",".join(map(str, indices)) + (f"%{options.max_parallel}" if options.max_parallel else ""),
        "output": f"{logs}/%a.log",
        "open-mode": "append",
        "chdir": sweep.cwd,
        "nodes": jobs[0].nodes,
        "ntasks-per-node": jobs[0].processes,
        "cpus-per-task": options.cpus_per_task,
        "gpus-per-node": jobs[0].gpus if options.gpus_per_node is None else options.gpus_per_node,
        "mem": options.memory,
        "time": options.time,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "signal": f"USR1@{options.warning}",
    }
    given = [f"--{key}={shlex.quote(str(value))}" for key, value in asked.items() if value is not None]
    return [*given, "--requeue" if options.requeue else "--no-requeue", *options.extra]


def array_name(jobs: Sequence[Job]) -> str:
    """Methods, sequences, settings and seeds of a sweep in one word."""
    columns = zip(*(job.parts for job in jobs), strict=True)
    words = ("+".join(dict.fromkeys(filter(None, column))) for column in columns)
    return "-".join(filter(None, words))[:120]


def queued(sweep: Sweep) -> dict[int, str]:
    """The state (PENDING, RUNNING, ...) of the jobs that are in the queue, by their index."""
    states = slurm_queue.states() if any(job.slurm for job in sweep.jobs) else {}
    return {index: states[job.slurm] for index, job in enumerate(sweep.jobs) if job.slurm in states}


def submit(sweep: Sweep, indices: Sequence[int], options: Options, *, dry: bool) -> list[str]:
    """Writes the script for jobs that ask for the same machines and hands it to sbatch unless `dry`.

    Returns:
        One line per script about what was done.

    Raises:
        MissingError: no SLURM here.
        ConfigError: SLURM refuses the job.
    """
    lines = []
    groups: dict[tuple[int, int, int | None], list[int]] = {}
    for index in indices:
        job = sweep.jobs[index]
        groups.setdefault((job.nodes, job.processes, job.gpus), []).append(index)
    for number, members in enumerate(groups.values()):
        path = sweep.path.with_suffix("") / "slurm" / ("array.sh" if number == 0 else f"array_{number}.sh")
        storage.write_text(path, script(sweep, members, options))
        if dry:
            lines.append(f"{len(members)} runs: sbatch {path}")
            continue
        array = _sbatch(path)
        sweep.note({index: {"slurm": f"{array}_{index}", "error": None} for index in members})
        lines.append(f"{len(members)} runs submitted as job array {array}; script and logs: {path.parent}")
    return lines


def _sbatch(path: Path) -> str:
    if shutil.which("sbatch") is None:
        raise MissingError(f"sbatch is not installed here; hydra/launcher=local runs without it (script: {path})")
    done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True)
    if done.returncode != 0:
        raise ConfigError(f"sbatch {path}: {' '.join(done.stderr.split())}")
    return done.stdout.strip().split(";")[0]
