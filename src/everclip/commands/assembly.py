"""From a composed configuration to a run: the only place that puts the parts together."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from everclip import storage
from everclip.backbones.base import Backbone
from everclip.commands.load import load_checkpoint
from everclip.config.build import build
from everclip.config.checks import check_group
from everclip.config.identity import choices, digest
from everclip.data.cache import cached
from everclip.data.validation import hold_out
from everclip.errors import ConfigError, EverclipError, LockedError, Preempted, StorageError
from everclip.loggers.base import RunLogger
from everclip.loggers.csv import CsvLogger
from everclip.loggers.mirrors import Loggers
from everclip.loggers.tensorboard import TensorBoardLogger
from everclip.loggers.wandb import WandbLogger, start_wandb
from everclip.methods.base import Method
from everclip.metrics.protocol import read as read_protocol
from everclip.reporting.console import log_file, quieten_libraries
from everclip.runs.folder import RunFolder, now
from everclip.runs.provenance import environment
from everclip.runs.scores import table_of
from everclip.training.engine import Engine
from everclip.training.evaluation import Judge, check_fit
from everclip.training.interruption import StopRequest
from everclip.training.monitor import Cadence
from everclip.training.phases import Budget, Training
from everclip.training.records import task_rows
from everclip.training.runner import Runner, seed_everything
from everclip.types import TaskSequence

log = logging.getLogger("everclip")


def make_training(config: DictConfig) -> Training:
    """Budgets, optimiser and schedule.

    Raises:
        ConfigError: the optimiser refuses a value.
    """
    for group in ("optimizer", "scheduler"):
        check_group(group, config[group])
    train = config.train
    later = Budget(train.epochs, train.batch_size, train.max_steps, train.gradient_clip)
    base = Budget(
        train.epochs if train.base.epochs is None else train.base.epochs,
        train.base.batch_size or train.batch_size,
        train.max_steps,
        train.gradient_clip,
    )
    make_optimizer = partial(build, "optimizer", config.optimizer)
    make_optimizer([nn.Parameter(torch.zeros(1))])
    schedule = build("scheduler", config.scheduler)
    return Training(base, later, make_optimizer, schedule, config.trainer.log_every, train.augment)


def make_sequence(config: DictConfig) -> TaskSequence:
    """The whole task sequence, with `validation=` in place of its test sets if asked for."""
    check_group("sequence", config.sequence)
    sequence: TaskSequence = build("sequence", config.sequence)
    return sequence if config.validation is None else hold_out(sequence, config.validation)


def settled(config: DictConfig, sequence: TaskSequence) -> DictConfig:
    """The configuration with what follows from the sequence in place of the method's options that are null."""
    derived = {"num_sessions": len(sequence.sessions)}
    filled = config.copy()
    for key, value in derived.items():
        if key in filled.method and filled.method[key] is None:
            filled.method[key] = value
    return filled


def make_parts(config: DictConfig, *, load: bool) -> tuple[TaskSequence, Backbone, Method]:
    """Sequence, backbone and method; on the meta device without `load`."""
    for group in ("backbone", "method"):
        check_group(group, config[group])
    sequence = make_sequence(config)
    if config.max_sessions is not None and config.max_sessions > len(sequence.sessions):
        raise ConfigError(f"max_sessions={config.max_sessions}, but the sequence has {len(sequence.sessions)} sessions")
    check_fit(get_object(config.method._target_), sequence, config.train.augment)
    backbone = build("backbone", config.backbone, load=load)
    seed_everything(config.seed)
    method = build("method", settled(config, sequence).method, backbone)
    if "class_texts" in config.method:  # a class without texts is told before anything is trained
        build("class_texts", config.method.class_texts).of(sequence.sessions[-1].seen)
    check_fit(method, sequence, config.train.augment)
    method.check(config.max_sessions or len(sequence.sessions))
    return sequence, backbone, method


def check(config: DictConfig, hydra: DictConfig) -> None:
    """`check=true`: builds everything without weights and says what would run."""
    quieten_libraries()
    with torch.device("cpu"):
        training = make_training(config)
        sequence, backbone, method = make_parts(config, load=False)
    sizes = [len(session.new) for session in sequence.sessions]
    test = sum(len(task.samples) for task in sequence.tasks)
    judges = "test" if config.validation is None else "held-out training"
    weights = ", ".join(f"{key} {value}" for key, value in backbone.provenance.items() if value is not None)
    total = sum(p.numel() for p in method.parameters())
    state = RunFolder(Path(hydra.runtime.output_dir)).state or "not started"
    for title, text in {
        "method": f"{hydra.runtime.choices.method}: {method.num_trainable():,} trainable of {total:,} parameters",
        "backbone": f"{hydra.runtime.choices.backbone}: {weights}",
        "sequence": f"{sequence.name}: {_runs(sizes)} classes, {test} {judges} pictures, order {sequence.class_order}",
        "training": f"{training.base.epochs} epochs of batch {training.base.batch_size} in the base session, "
        f"{training.later.epochs} of batch {training.later.batch_size} later",
        "folder": f"{hydra.runtime.output_dir} ({state})",
    }.items():
        log.info("%-9s %s", title, text)


def _runs(sizes: list[int]) -> str:
    """`60 + 8 x 5` for [60, 5, 5, ...]."""
    runs: list[list[int]] = []
    for size in sizes:
        if runs and runs[-1][1] == size:
            runs[-1][0] += 1
        else:
            runs.append([1, size])
    return " + ".join(str(size) if count == 1 else f"{count} x {size}" for count, size in runs)


def shorten(sequence: TaskSequence, config: DictConfig) -> TaskSequence:
    """The first `max_sessions` sessions."""
    return replace(sequence, sessions=sequence.sessions[: config.max_sessions])


def with_cache(sequence: TaskSequence, backbone: Backbone, config: DictConfig, engine: Engine) -> TaskSequence:
    """The sequence with its pictures from the configured cache, which the first process makes for all."""
    if config.data.cache == "off":
        return sequence
    folder = Path(config.paths.cache, "images") if config.data.cache == "disk" else None
    if engine.rank != 0:
        engine.barrier()
    kept = cached(sequence, backbone.resize, folder)
    if engine.rank == 0:
        engine.barrier()
    return kept


def engine_settings(config: DictConfig) -> dict[str, Any]:
    """The engine's arguments: device, precision and processes."""
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "accumulate", "auto_batch")
    loading = {name: config.data[name] for name in ("num_workers", "eval_batch_size")}
    return {name: config.trainer[name] for name in names} | loading | {"seed": config.seed}


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
    with _working_in(folder, rank, force=config.force):
        if config.restart and rank == 0:
            folder.clear()
        engine = Engine(**engine_settings(config))
        try:
            _run(config, hydra, folder, engine, request)
        except BaseException:
            engine.close()
            raise


def evaluate(config: DictConfig, hydra: DictConfig) -> None:
    """`eval=`: evaluates a stored session on the configured sequence and writes the result beside its checkpoint.

    `eval=session_03` means that session of the run that the rest of the command names, a path any checkpoint in a run
    folder, whose own backbone and method are used then.

    Raises:
        MissingError: no such checkpoint.
        ConfigError: a method that scores trained classes only, and a sequence of other classes.
    """
    quieten_libraries()
    own = Path(config.eval).name == config.eval and not config.eval.endswith(".safetensors")
    path = Path(hydra.runtime.output_dir, "checkpoints", f"{config.eval}.safetensors") if own else Path(config.eval)
    engine = Engine(**engine_settings(config))
    model = load_checkpoint(path, trust=config.trust)
    engine.place(model.method)
    sequence = make_sequence(config)
    same = shorten(sequence, config).fingerprint() == model.facts["sequence"]
    if not same and not model.method.open_vocabulary:
        raise ConfigError(f"{path} scores its own classes only; eval needs the sequence it was trained on")
    session = int(model.facts["session"]) if same else len(sequence.sessions) - 1
    result = Judge(engine, sequence).evaluate(model.method, session)
    entry, rows = read_protocol(sequence.protocol).entry, task_rows(result, sequence)
    facts: dict[str, Any] = {
        "checkpoint": path.name,
        "sequence": sequence.name,
        "fingerprint": sequence.fingerprint(),
        entry: table_of([{"tasks": rows}]).pooled(entry, range(len(sequence.tasks))),
        "tasks": rows,
        "zero_shot_accuracy": result.held_out,
    }
    if engine.rank == 0:
        target = path.parents[1] / "evaluations" / f"{path.stem}_on_{sequence.name}.json"
        storage.write_json(target, facts)
        for row in facts["tasks"]:
            score = row["scores"][entry]
            log.info("%-16s %6.2f  (of %d)", row["name"], score["value"], score["count"])
        log.info("%-16s %6.2f", "all", facts[entry])
        log.info("%s", target)


def _rank() -> int:
    """Number of this process as its launcher (torchrun, Lightning, srun) says; there is no engine yet."""
    return next((int(os.environ[key]) for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in os.environ), 0)


def _run(config: DictConfig, hydra: DictConfig, folder: RunFolder, engine: Engine, request: StopRequest) -> None:
    start = time.monotonic()
    torch.use_deterministic_algorithms(True, warn_only=True)
    training = make_training(config)
    sequence, backbone, method = make_parts(config, load=True)
    if config.trainer.compile:
        backbone.compile_blocks()
    shortened = shorten(sequence, config)
    chosen = choices(hydra)
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
        "trainable_parameters": method.num_trainable(),
        **environment(),
    }
    if engine.rank == 0:
        _refuse_other_origin(folder, identity, facts["commit"])
        storage.write_text(folder.path / "config.yaml", OmegaConf.to_yaml(settled(config, sequence), resolve=True))
        folder.update_run(**facts)
    if method.couples_batch and (config.trainer.accumulate > 1 or config.trainer.auto_batch):
        log.warning(
            "the loss of %s depends on how trainer.accumulate or auto_batch divide a batch into micro-batches",
            chosen["method"],
        )
    log.info("%s on %s, %s, seed %d", chosen["method"], chosen["sequence"], chosen["backbone"], config.seed)
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


def _refuse_other_origin(folder: RunFolder, identity: dict[str, Any], commit: str | None) -> None:
    """Compares a run that was begun earlier with what there is now.

    Raises:
        ConfigError: its pictures, weights or precision were others; results of both must not be mixed.
    """
    begun = folder.read_run()
    if not (folder.progress.is_file() or folder.read_sessions() or folder.checkpoint(0).is_file()):
        return
    earlier = {
        "backbone": begun.get("weights", {}).get("sha256"),
        "sequence": begun.get("fingerprint"),
        "precision": begun.get("precision"),
    }
    words = {"backbone": "the backbone's weights", "sequence": "the task sequence's data", "precision": "the precision"}
    for key, value in earlier.items():
        if value is not None and value != identity[key]:
            raise ConfigError(
                f"{folder.path} was begun with other values: {words[key]} changed from {value[:16]} to "
                f"{identity[key][:16]}; put back what was there, or begin anew with restart=true"
            )
    if begun.get("commit") not in (None, commit):
        log.warning("begun with code of commit %s, going on with %s", begun["commit"], commit)


@contextmanager
def _working_in(folder: RunFolder, rank: int, *, force: bool) -> Iterator[None]:
    """Holds the run folder, writes its log and keeps its state: running, then finished, preempted or failed.

    Only the first process does; the others are silent.
    """
    if rank != 0:
        log.setLevel(logging.ERROR)
        yield
        return
    folder.lock(force=force)
    try:
        folder.sweep()
        attempt = {"start": now(), "host": socket.gethostname(), "pid": os.getpid()}
        attempts = [*folder.read_run().get("attempts", []), attempt]
        state, reason = "failed", None
        try:  # a signal may come at once
            folder.update_run(state="running", attempts=attempts)
            with log_file(folder.path / "run.log"):
                yield
            state = "finished"
        except (Preempted, KeyboardInterrupt) as stop:
            state, reason = "preempted", str(stop) or "SIGINT"
            raise
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            attempt |= {"end": now(), "state": state, "reason": reason}
            with suppress(StorageError) if state != "finished" else nullcontext():  # the first error is the one to show
                folder.update_run(state=state, attempts=attempts)
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
    run = start_wandb(
        folder.path,
        run_id=f"{facts['digest']}-seed{facts['seed']}",
        name=f"{facts['method']}-{facts['sequence']}-{facts['backbone']}-seed{facts['seed']}",
        group=f"{facts['sequence']}/{facts['method']}",
        tags=[facts["method"], facts["sequence"], facts["backbone"]],
        config={**settings, "run": facts},
        project=config.logger.wandb.project,
        entity=config.logger.wandb.entity,
        mode=config.logger.wandb.mode,
    )
    return WandbLogger(run, config.logger.wandb.log_model)
