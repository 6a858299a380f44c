"""What `hydra/launcher=` chooses: how a sweep's runs are started.

Hydra's own launchers call the program's function once per job, in one process or in processes that serve several jobs;
what parallel training leaves in the environment then breaks the next job, or lets it run on fewer processes than were
asked for. Here a sweep only composes its jobs; every run is a command of its own. Hydra imports all plugins at every
start, hence the imports inside functions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from everclip.sweeps.sweep import Job, Sweep


class _CommandLauncher(Launcher):
    """Composes all jobs, refuses impossible ones and missing data, and leaves the rest to a subclass."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from everclip.config.reading import Reading

        self._loader = hydra_context.config_loader
        Reading().serve(self._loader)  # also for batches that are composed later
        self._config = config
        self._found: set[str] = set()
        self._composed: dict[str, DictConfig] = {}  # by run folder

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs or submits the jobs; their outcomes go to `everclip.sweeps.launchers.OUTCOMES`."""
        from everclip.digest import json_sha256
        from everclip.reporting.console import set_up_logging
        from everclip.sweeps.launchers import OUTCOMES, Outcome, log, refuse_within
        from everclip.sweeps.sweep import Sweep, distinct

        refuse_within(os.environ)
        set_up_logging(self._config.log_level)
        setup_globals()
        jobs = [self._job(list(words), initial_job_idx + number) for number, words in enumerate(job_overrides)]
        self._composed = {job.folder: config for job, config in jobs}
        jobs = [(job, _without_hydra(config)) for job, config in jobs]
        once = distinct((job, json_sha256(OmegaConf.to_container(config, resolve=True))) for job, config in jobs)
        if len(once) < len(jobs):
            log.info("%d of %d runs are the same as others and run once", len(jobs) - len(once), len(jobs))
        self._require_data(jobs)
        sweep = Sweep(Path(self._config.paths.outputs).absolute(), once, os.getcwd())
        if not (self._config.plan or self._config.check):
            _describe(jobs)
        codes = self.plan(sweep) if self._config.plan else self.start(sweep)
        OUTCOMES.extend(Outcome(Path(job.folder), codes.get(index, 0)) for index, job in enumerate(sweep.jobs))
        returns = JobReturn(status=JobStatus.COMPLETED)
        returns.return_value = None
        return [returns] * len(jobs)

    def _require_data(self, jobs: Iterable[tuple[Job, DictConfig]]) -> None:
        """Refuses a sweep whose data are missing; results need none, and with nothing else torch is not imported."""
        from everclip.reporting.results import read_result
        from everclip.runs.folder import RunFolder

        once = {job.folder: config for job, config in jobs}
        if todo := [config for folder, config in once.items() if read_result(RunFolder(Path(folder))) is None]:
            from everclip.commands.sequences import require_data

            require_data(todo, self._found)

    def _job(self, overrides: list[str], number: int) -> tuple[Job, DictConfig]:
        """A run, and its configuration as the run itself would compose it."""
        from everclip.config.checks import check_values
        from everclip.runs.again import flags_of, quoted
        from everclip.sweeps.sweep import Job

        config = self._loader.load_sweep_config(self._config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        check_values(config)
        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()
        settings = ("hydra.mode", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher", "hydra.run.dir")
        ours = [word for word in config.hydra.overrides.hydra if not word.lstrip("+~").startswith(settings)]
        trainer = OmegaConf.to_container(config.trainer, resolve=True)
        plain = [word for word in overrides if not word.startswith("hparams_search=")]  # a run searches nothing itself
        ours = [*ours, f"hydra.run.dir={quoted(folder)}"]
        with open_dict(config):
            config.hydra.mode = RunMode.RUN
            config.hydra.run.dir = config.hydra.runtime.output_dir = str(folder)
            config.hydra.overrides.task, config.hydra.overrides.hydra = plain, ours
            config.hydra.runtime.choices.hparams_search = "grid"
        return Job(str(folder), [*flags_of(sys.argv[1:]), *plain, *ours], **resources(trainer)), config

    def keep(self, sweep: Sweep, indices: Iterable[int]) -> None:
        """Keeps what jobs were composed to, which is what they will run whatever becomes of the files."""
        from everclip.sweeps import composed

        for index in indices:
            composed.keep(sweep, index, self._composed[sweep.jobs[index].folder])

    def start(self, sweep: Sweep) -> dict[int, int]:
        """Runs or submits what is not finished; exit codes of jobs that did not end well, by index."""
        raise NotImplementedError

    def plan(self, sweep: Sweep) -> dict[int, int]:
        """Measures one run of each setting here, and says what all that are not finished would cost."""
        from everclip.sweeps.launchers import LocalRuns, log, unfinished
        from everclip.sweeps.plans import lines

        left = unfinished(sweep)
        settings = {Path(sweep.jobs[index].folder).parent: index for index in reversed(left)}
        codes = LocalRuns(1).run(sweep, sorted(settings.values()), note=False)
        for line in lines([sweep.jobs[index] for index in left]):
            log.info("%s", line)
        return codes


def _without_hydra(config: DictConfig) -> DictConfig:
    alone = config.copy()
    with open_dict(alone):
        del alone["hydra"]
    return alone


def _describe(jobs: Iterable[tuple[Job, DictConfig]]) -> None:
    """Gives finished runs, which are not started again, the tags and notes of this command."""
    from everclip.runs.folder import RunFolder

    for job, config in jobs:
        if (config.tags, config.notes) != (None, None) and (folder := RunFolder(Path(job.folder))).state == "finished":
            folder.describe(config.tags, config.notes)


def resources(trainer: Any) -> dict[str, Any]:
    """Machines, and processes and GPUs on each, that a run's trainer settings ask for."""
    devices = trainer["devices"]
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdecimal() else 1
    gpus = count if trainer["accelerator"] in ("gpu", "cuda") else None
    return {"nodes": trainer["num_nodes"], "processes": count, "gpus": gpus}


class LocalLauncher(_CommandLauncher):
    """Runs on this machine, one after the other or `n_jobs` at once.

    Attributes:
        stopped: whether a run has failed with `stop_on_error`; nothing is started any more then.
    """

    def __init__(self, n_jobs: int, stop_on_error: bool) -> None:
        self._num_jobs, self._stop_on_error, self.stopped = n_jobs, stop_on_error, False

    def start(self, sweep: Sweep) -> dict[int, int]:
        """Runs what is not finished, and everything if it is only checked."""
        from everclip.sweeps.launchers import LocalRuns, log, unfinished
        from everclip.sweeps.sweep import COMPLETED

        if self.stopped:
            return {}
        runs = LocalRuns(self._num_jobs, stop_on_error=self._stop_on_error)
        if self._config.check:
            return runs.run(sweep, range(len(sweep.jobs)), note=False)
        left = unfinished(sweep)
        if len(left) < len(sweep.jobs):
            log.info("%d of %d runs are finished already", len(sweep.jobs) - len(left), len(sweep.jobs))
        sweep.note({index: {"state": COMPLETED} for index in range(len(sweep.jobs)) if index not in left})
        self.keep(sweep, left)
        codes = runs.run(sweep, left)
        self.stopped = runs.stopped
        return codes


class SlurmLauncher(_CommandLauncher):
    """Submits the runs as one SLURM job array and returns; options as in `everclip.sweeps.slurm.Options`."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def start(self, sweep: Sweep) -> dict[int, int]:
        """Submits what is neither finished nor in the queue; with `check=true` only writes the script."""
        from everclip.sweeps.launchers import log, unfinished
        from everclip.sweeps.slurm import Options, queued, submit

        sweep.keep_notes()
        sweep.jobs = [
            replace(j, words=[w for w in j.words if not w.startswith(("check=", "plan="))]) for j in sweep.jobs
        ]
        left, waiting = unfinished(sweep), queued(sweep)
        todo = [index for index in left if index not in waiting]
        done, busy = len(sweep.jobs) - len(left), len(left) - len(todo)
        log.info("%d runs: %d finished, %d in the queue, %d to submit", len(sweep.jobs), done, busy, len(todo))
        sweep.write()
        self.keep(sweep, todo)
        for line in submit(sweep, todo, Options(**self._options), dry=self._config.check or self._config.plan):
            log.info("%s", line)
        log.info("everclip-status %s", sweep.path)
        return {}

    def plan(self, sweep: Sweep) -> dict[int, int]:
        """Also writes the script, without submitting it."""
        return super().plan(sweep) | self.start(sweep)
