"""Starts the runs of a sweep on this machine: one operating-system process each, a few at a time. Needs no torch."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everclip.errors import ConfigError, Preempted, StorageError
from everclip.reporting.results import read_result
from everclip.runs import lock
from everclip.runs.folder import RunFolder
from everclip.runs.inputs import changed
from everclip.sweeps import composed
from everclip.sweeps.sweep import COMPLETED, FAILED, IN_FLIGHT, WAITING, Job, Sweep

log = logging.getLogger("everclip")
COMMAND = (sys.executable, "-P", "-m", "everclip.commands.run")  # -P: modules of the current folder come last

# What one parallel run leaves for its own processes would make the next believe to be one of them.
RANKS = {
    "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
    "MASTER_PORT", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", composed.VARIABLE,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How one job ended."""

    folder: Path
    exit_code: int


OUTCOMES: list[Outcome] = []


def refuse_within(environment: Mapping[str, str]) -> None:
    """Refuses to start a sweep where something else has started this process as one of many.

    Raises:
        ConfigError: under torchrun or srun with more than one process, or as a trial of a sweep of W&B.
    """
    if environment.get("WANDB_SWEEP_ID"):
        raise ConfigError(
            "a trial of a W&B sweep is one run, which W&B has given its id (WANDB_SWEEP_ID); leave out -m in the "
            "sweep's command, as scripts/wandb_sweep.yaml does"
        )
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if int(environment.get(name) or 1) > 1:
            raise ConfigError(
                f"a sweep (-m) starts the processes of its runs itself, here {environment[name]} of it would run "
                f"({name}); start it once, with trainer.devices=... for parallel runs"
            )


def unfinished(sweep: Sweep) -> list[int]:
    """Indices of the jobs without a result, or whose data or weights may have changed since, which they find out."""
    results = [read_result(RunFolder(Path(job.folder))) for job in sweep.jobs]
    return [index for index, result in enumerate(results) if result is None or changed(result.run.get("inputs") or ())]


class LocalRuns:
    """Processes of this machine.

    Args:
        num_jobs: how many runs at once; -1: one per processor.
        stop_on_error: whether no other run begins once one has failed; those that go on then come to their end.

    Attributes:
        stopped: whether that was so.
    """

    def __init__(self, num_jobs: int, *, stop_on_error: bool = False) -> None:
        self.stop_on_error, self.stopped = stop_on_error, False
        self.num_jobs = num_jobs if num_jobs > 0 else os.cpu_count() or 1
        self._slots: queue.Queue[int] = queue.Queue()
        for slot in range(self.num_jobs):
            self._slots.put(slot)
        self._live: set[subprocess.Popen[str]] = set()
        self._lock, self._noting = threading.Lock(), threading.Lock()
        self._stopping = False

    def run(self, sweep: Sweep, indices: Iterable[int], *, note: bool = True) -> dict[int, int]:
        """Runs jobs of a sweep; returns the exit codes of those it started, and notes in its list what becomes of each.

        A signal stops all of them as it would stop a single run, a second one kills them.
        """
        codes, chosen = {}, list(indices)
        if note:
            sweep.process = lock.this_process()
            self._note(sweep, {index: {"state": WAITING, "error": None} for index in chosen})
        pool = ThreadPoolExecutor(self.num_jobs)
        futures = {pool.submit(self._run, sweep, index, note): index for index in chosen}
        try:
            for future in as_completed(futures):
                if (code := future.result()) is not None:
                    codes[futures[future]] = code
        except BaseException:
            self._stop(signal.SIGTERM)
            try:
                pool.shutdown(cancel_futures=True)
            except BaseException:
                self._stop(signal.SIGKILL)
                raise
            raise
        finally:
            if note:
                sweep.process = {}
                self._note(sweep, {})
        pool.shutdown()
        if left := len(chosen) - len(codes):
            log.warning("a run failed: %d not started; `everclip-status %s` shows them", left, sweep.path)
        return codes

    def _run(self, sweep: Sweep, index: int, note: bool) -> int | None:
        """One job's exit code; None if it was not to start any more."""
        slot = self._slots.get()
        try:
            if self.stopped:
                return None
            if note:
                self._note(sweep, {index: {"state": IN_FLIGHT}})
            code, error = self._run_in(slot, sweep, index)
        except OSError as failure:
            log.warning("job %d could not be run: %s", index + 1, failure)
            code, error = 1, f"could not be run: {failure}"
        finally:
            self._slots.put(slot)
        state = {0: COMPLETED, Preempted.exit_code: WAITING}.get(code, FAILED)
        if state == FAILED and self.stop_on_error:
            self.stopped = True
        if note:
            self._note(sweep, {index: {"state": state, "error": error}})
        return code

    def _note(self, sweep: Sweep, facts: Mapping[int, Mapping[str, Any]]) -> None:
        try:
            with self._noting:
                sweep.note(facts)
        except StorageError as failure:  # the list is for readers; the runs do not need it
            log.warning("%s", failure)

    def _run_in(self, slot: int, sweep: Sweep, index: int) -> tuple[int, str | None]:
        """A job's exit code and, if that is not 0, the last line it wrote to stderr."""
        job, alone = sweep.jobs[index], self.num_jobs == 1
        mark = "" if alone else f"[{index}] "
        with self._lock:
            if self._stopping:
                return 75, None
            log.info("%sjob %d of %d: %s", mark, index + 1, len(sweep.jobs), job.name)
            process = subprocess.Popen(
                [*COMMAND, *job.words],
                stdout=None if alone else subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                cwd=sweep.cwd,
                env=clean_environment() | ({} if alone else gpus_of(slot, job)) | composed.named(sweep, index),
                process_group=0,  # a Ctrl-C reaches the sweep alone, which passes it on once
            )
            self._live.add(process)
        last = ""
        try:
            with process:
                copier = threading.Thread(target=_copy, args=(process.stdout or (), mark), daemon=True)
                copier.start()
                assert process.stderr is not None
                for line in process.stderr:
                    sys.stderr.write(mark + line)
                    last = line.strip() or last
                copier.join()  # leaving closes what it reads
        finally:
            with self._lock:
                self._live.remove(process)
        code = process.returncode
        if code < 0 and not self._stopping:  # it could not say so itself
            last = f"killed by {signal.Signals(-code).name}; the same command goes on"
            sys.stderr.write(f"{mark}everclip: {last}\n")
        code = code if code >= 0 else 128 - code
        return code, None if code == 0 else f"exit {code}: {last.removeprefix('everclip: ')}"

    def _stop(self, number: signal.Signals) -> None:
        with self._lock:
            self._stopping = True
            for process in self._live:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)


def _copy(lines: Iterable[str], mark: str) -> None:
    for line in lines:
        sys.stdout.write(mark + line)
        sys.stdout.flush()


def clean_environment() -> dict[str, str]:
    """This process's environment without any word of ranks."""
    return {k: v for k, v in os.environ.items() if k not in RANKS and not k.startswith("TORCHELASTIC_")}


def gpus_of(slot: int, job: Job) -> dict[str, str]:
    """Which of the visible GPUs a run gets that shares the machine with others; nothing without GPUs."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = sorted((path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")), key=int)
    visible = found if listed is None else [name for name in listed.split(",") if name]
    if len(visible) < 2:
        return {}
    chosen = [visible[(slot * job.processes + index) % len(visible)] for index in range(job.processes)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}
