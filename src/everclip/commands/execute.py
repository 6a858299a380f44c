"""One run from its configuration to its summary, whatever of it is done already."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from everclip import storage
from everclip.commands.origin import data_of, require_same
from everclip.commands.parts import engine_settings, make_parts, make_training, settled, with_cache
from everclip.commands.sequences import shorten
from everclip.config.identity import digest, names_of
from everclip.config.names import fitted, settings_of
from everclip.errors import EverclipError, LockedError, Preempted, StorageError, behind
from everclip.loggers.base import RunLogger
from everclip.loggers.csv import CsvLogger
from everclip.loggers.mirrors import Loggers
from everclip.loggers.tensorboard import TensorBoardLogger
from everclip.loggers.wandb import WandbLogger, start_wandb, trial_id
from everclip.reporting.console import log_file, quieten_libraries
from everclip.runs.folder import RunFolder, now
from everclip.runs.provenance import environment
from everclip.training.engine import Engine
from everclip.training.interruption import StopRequest
from everclip.training.monitor import Cadence
from everclip.training.peers import Peers
from everclip.training.runner import Runner

log = logging.getLogger("everclip")
Leave = Callable[[str, str | None], None]  # writes state and reason of a run


def run(config: DictConfig, hydra: DictConfig, folder: RunFolder, request: StopRequest | None = None) -> None:
    """One run from its configuration to its summary, whatever of it is done already."""
    quieten_libraries()
    rank, fresh = _rank(), folder.state is None
    try:
        _run_locked(config, hydra, folder, rank, request or StopRequest())
    except LockedError:
        raise  # what lies there is another process's
    except EverclipError:
        if fresh and rank == 0 and not (folder.path / "config.yaml").is_file():
            folder.forget()  # refused before anything began
        raise


def _run_locked(config: DictConfig, hydra: DictConfig, folder: RunFolder, rank: int, request: StopRequest) -> None:
    again = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0  # put back into the queue: it goes on
    force, restart = config.force and not again, config.restart and not again

    def work(leave: Leave) -> None:
        def end(reason: EverclipError | Preempted) -> None:
            leave("preempted" if isinstance(reason, Preempted) else "failed", str(reason))
            folder.unlock()
            sys.stderr.write(f"everclip: {reason}\n")
            os._exit(reason.exit_code)

        peers = Peers(rank, end)
        try:
            engine = Engine(**engine_settings(config), peers=peers)
            engine.profiles = folder.path / "profile"
            _run(config, hydra, folder, engine, request)
        except BaseException as error:
            cause = peers.cause(error, request.name)
            peers.close(failed=True)
            if cause is not error:
                raise cause from error
            raise
        peers.close(failed=False)

    _work_in(folder, rank, list(hydra.overrides.task), work, force=force, restart=restart)


def _rank() -> int:
    """Number of this process as its launcher (torchrun, Lightning, srun) says; there is no engine yet."""
    return next((int(os.environ[key]) for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in os.environ), 0)


def _run(config: DictConfig, hydra: DictConfig, folder: RunFolder, engine: Engine, request: StopRequest) -> None:
    start = time.monotonic()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # To fill every new tensor takes 5 % of a small step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    training = make_training(config)
    sequence, backbone, method = make_parts(config, load=True)
    shortened = shorten(sequence, config)
    chosen = names_of(config, hydra)
    identity = {
        "digest": digest(config),
        "backbone": backbone.provenance["sha256"],
        "sequence": shortened.fingerprint(),
        "precision": engine.precision,
    }
    engine.require_equal("task sequence", identity["sequence"])
    engine.require_equal("weights", identity["backbone"])
    facts = {
        **{group: chosen[group] for group in ("method", "backbone", "sequence")},
        "seed": config.seed,
        "overrides": list(hydra.overrides.task),
        "digest": identity["digest"],
        "weights": backbone.provenance,
        "fingerprint": identity["sequence"],
        "class_order": sequence.class_order,
        "protocol": sequence.protocol,
        "templates": list(method.templates(sequence.sessions[0].new)),
        "device": str(engine.device),
        "devices": engine.world_size,
        "precision": engine.precision,
        "threads": torch.get_num_threads(),
        "trainable_parameters": method.num_trainable(),
        **environment(),
    }
    if engine.rank == 0:
        # Mirrors elsewhere must not take a run that was begun anew, or in another folder, for this one.
        own = f"{identity['digest']}-seed{config.seed}-{secrets.token_hex(4)}"
        facts["id"] = trial_id() or folder.read_run().get("id", own)
        data = data_of(config, shortened)
        _refuse_other_origin(folder, facts | data)
        storage.write_text(folder.path / "config.yaml", OmegaConf.to_yaml(settled(config, sequence), resolve=True))
        folder.update_run(**(facts | data))
        folder.describe(config.tags, config.notes)
        facts |= {name: fact for name, fact in folder.read_run().items() if name in ("tags", "notes", "contents")}
    names = (chosen["method"], chosen["sequence"], chosen["backbone"], config.seed, engine.description)
    log.info("%s on %s, %s, seed %d; %s", *names)
    runner = Runner(
        folder=folder,
        identity=identity,
        sequence=with_cache(shortened, backbone, config, engine),
        method=method,
        engine=engine,
        training=training,
        cadence=Cadence(config.checkpoint.every_n_steps, config.checkpoint.every_n_minutes),
        make_loggers=partial(_make_loggers, config, folder, facts, engine.rank),
        seed=config.seed,
        request=request,
    )
    runner.run()
    log.info("%.1f s in all", time.monotonic() - start)


def _refuse_other_origin(folder: RunFolder, facts: dict[str, Any]) -> None:
    """Compares a run that was begun earlier with what there is now, see `require_same`."""
    begun = folder.read_run()
    if not folder.begun:
        return
    require_same(folder, begun, facts)
    for key, what in (("commit", "code of commit"), ("threads", "this number of threads, which moves roundings:")):
        if begun.get(key) not in (None, facts[key]):
            log.warning("begun with %s %s, going on with %s", what, begun[key], facts[key])


def _work_in(
    folder: RunFolder, rank: int, overrides: list[str], work: Callable[[Leave], None], *, force: bool, restart: bool
) -> None:
    """Works in the run folder, writes its log and keeps its state: running, then finished, preempted or failed.

    Only the first process does; the others are silent. No context manager: a signal between what it enters and the
    work would never be seen by it.
    """
    if rank != 0:
        log.setLevel(logging.ERROR)
        work(lambda state, reason: None)
        return
    folder.lock(force=force)
    attempt: dict[str, Any] = {"start": now(), "host": socket.gethostname(), "pid": os.getpid()}
    attempts = [*folder.read_run().get("attempts", []), attempt]

    def leave(state: str, reason: str | None) -> None:
        attempt.update(end=now(), state=state, reason=reason)
        with suppress(StorageError) if state != "finished" else nullcontext():  # the first error is the one to show
            folder.update_run(state=state, attempts=attempts)

    try:
        folder.sweep()
        if restart:
            folder.clear()
        state, reason = "failed", None
        try:  # a signal may come at once
            folder.update_run(state="running", attempts=attempts, overrides=overrides, command=sys.argv)
            with log_file(folder.path / "run.log"):
                work(leave)
            state = "finished"
        except BaseException as error:
            if stop := behind(error, Preempted, KeyboardInterrupt):
                state, reason = "preempted", str(stop) or "SIGINT"
            else:
                reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            leave(state, reason)
    finally:
        with suppress(OSError):
            folder.unlock()


def _make_loggers(config: DictConfig, folder: RunFolder, facts: dict[str, Any], rank: int, step: int) -> RunLogger:
    """The configured mirrors, for the first process; one that cannot start is left out with a warning.

    `train.csv` is written for any of them, because they are filled from it when a run goes on.
    """
    mirrors: list[Callable[[], RunLogger]] = []
    if config.logger.tensorboard:
        mirrors.append(lambda: TensorBoardLogger(folder.path))
    if config.logger.wandb.enabled and config.logger.wandb.mode != "disabled":
        mirrors.append(lambda: _make_wandb(config, folder, facts))
    if rank != 0 or not (config.logger.csv or mirrors):
        return Loggers()
    members: list[RunLogger] = []
    for make in mirrors:
        try:
            members.append(make())
        except Exception as error:  # noqa: BLE001 (a mirror may fail in any way; the run folder is the record)
            log.warning("a logger could not start: %s: %s", type(error).__name__, error)
    return Loggers(CsvLogger(folder.path, step), members)


def _make_wandb(config: DictConfig, folder: RunFolder, facts: dict[str, Any]) -> WandbLogger:
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]  # a mapping
    chosen = [facts[group] for group in ("method", "sequence", "backbone")]
    differing = settings_of(facts["overrides"])
    run = start_wandb(
        folder.path,
        run_id=facts["id"],
        name=fitted(f"{'-'.join([*chosen, *differing])}-seed{facts['seed']}", 128, facts["id"]),
        group=fitted("/".join([facts["sequence"], facts["method"], *differing]), 128, facts["digest"]),
        tags=list(
            dict.fromkeys(fitted(tag, 64, facts["digest"]) for tag in (*chosen, *differing, *facts.get("tags", ())))
        ),
        notes=facts.get("notes", ""),
        config={**settings, "run": facts},
        project=config.logger.wandb.project,
        entity=config.logger.wandb.entity,
        mode=config.logger.wandb.mode,
    )
    data = {name: facts.get(name) for name in ("sequence", "fingerprint", "contents")}
    return WandbLogger(run, config.logger.wandb.log_model, data)
