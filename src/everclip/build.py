"""From a composed configuration to a run: the only place that puts the parts together."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from everclip import storage
from everclip.backbones.base import Backbone
from everclip.config import build, check_group, choices, digest
from everclip.console import log_file, quieten_libraries
from everclip.engine import Budget, Engine, Training
from everclip.errors import ConfigError, Preempted
from everclip.loggers import CsvLogger, Loggers, RunLogger, TensorBoardLogger, WandbLogger
from everclip.methods.base import Method
from everclip.provenance import environment
from everclip.run_folder import RunFolder, now
from everclip.runner import Runner, seed_everything
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
    return Training(base, later, make_optimizer, build("scheduler", config.scheduler), config.trainer.log_every)


def make_parts(config: DictConfig, *, load: bool) -> tuple[TaskSequence, Backbone, Method]:
    """Sequence, backbone and method; on the meta device without `load`."""
    for group in ("sequence", "backbone", "method"):
        check_group(group, config[group])
    sequence = build("sequence", config.sequence)
    if config.max_sessions is not None and config.max_sessions > len(sequence.sessions):
        raise ConfigError(f"max_sessions={config.max_sessions}, but the sequence has {len(sequence.sessions)} sessions")
    backbone = build("backbone", config.backbone, load=load)
    seed_everything(config.seed)
    method = build("method", config.method, backbone)
    return sequence, backbone, method


def check(config: DictConfig, hydra: DictConfig) -> None:
    """`check=true`: builds everything without weights and says what would run."""
    quieten_libraries()
    with torch.device("cpu"):
        training = make_training(config)
        sequence, backbone, method = make_parts(config, load=False)
    sizes = [len(session.new) for session in sequence.sessions]
    test = sum(len(task.test) for task in sequence.tasks)
    weights = ", ".join(f"{key} {value}" for key, value in backbone.provenance.items() if value is not None)
    total = sum(p.numel() for p in method.parameters())
    state = RunFolder(Path(hydra.runtime.output_dir)).state or "not started"
    for title, text in {
        "method": f"{hydra.runtime.choices.method}: {method.num_trainable():,} trainable of {total:,} parameters",
        "backbone": f"{hydra.runtime.choices.backbone}: {weights}",
        "sequence": f"{sequence.name}: {_runs(sizes)} classes, {test} test pictures, order {sequence.class_order}",
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


def run(config: DictConfig, hydra: DictConfig, folder: RunFolder) -> None:
    """One run from its configuration to its summary, whatever of it is done already."""
    quieten_libraries()
    engine = Engine(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=config.trainer.strategy,
        precision=config.trainer.precision,
        num_workers=config.data.num_workers,
        eval_batch_size=config.data.eval_batch_size,
        seed=config.seed,
    )
    start = time.monotonic()
    torch.use_deterministic_algorithms(True, warn_only=True)
    training = make_training(config)
    sequence, backbone, method = make_parts(config, load=True)
    shortened = replace(sequence, sessions=sequence.sessions[: config.max_sessions])
    chosen = choices(hydra)
    identity = {
        "digest": digest(config),
        "backbone": backbone.provenance["sha256"],
        "sequence": shortened.fingerprint(),
        "precision": engine.precision,
    }
    with _working_in(folder, engine.rank):
        facts = {
            **{group: chosen[group] for group in ("method", "backbone", "sequence")},
            "seed": config.seed,
            "overrides": list(hydra.overrides.task),
            "digest": identity["digest"],
            "weights": backbone.provenance,
            "fingerprint": identity["sequence"],
            "class_order": sequence.class_order,
            "templates": list(method.templates(sequence.sessions[0].new)),
            "device": str(engine.device),
            "devices": engine.world_size,
            "precision": engine.precision,
            "trainable_parameters": method.num_trainable(),
        }
        if engine.rank == 0:
            storage.write_text(folder.path / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
            folder.update_run(**facts, **environment())
        log.info("%s on %s, %s, seed %d", chosen["method"], chosen["sequence"], chosen["backbone"], config.seed)
        runner = Runner(
            folder=folder,
            identity=identity,
            sequence=shortened,
            method=method,
            engine=engine,
            training=training,
            make_loggers=partial(_make_loggers, config, folder, facts, engine.rank),
            seed=config.seed,
        )
        runner.run()
        log.info("%.1f s in all", time.monotonic() - start)


@contextmanager
def _working_in(folder: RunFolder, rank: int) -> Iterator[None]:
    """Holds the run folder, writes its log and keeps its state: running, then finished, preempted or failed.

    Only the first process does; the others are silent.
    """
    if rank != 0:
        log.setLevel(logging.ERROR)
        yield
        return
    folder.lock()
    try:
        attempt = {"start": now(), "host": socket.gethostname(), "pid": os.getpid()}
        attempts = [*folder.read_run().get("attempts", []), attempt]
        folder.update_run(state="running", attempts=attempts)
        state, reason = "failed", None
        try:
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
            folder.update_run(state=state, attempts=attempts)
    finally:
        folder.unlock()


def _make_loggers(config: DictConfig, folder: RunFolder, facts: dict[str, Any], rank: int, step: int) -> RunLogger:
    """The configured mirrors, for the first process; one that cannot start is left out with a warning."""
    wanted: list[Callable[[], RunLogger]] = []
    if config.logger.csv:
        wanted.append(lambda: CsvLogger(folder.path, step))
    if config.logger.tensorboard:
        wanted.append(lambda: TensorBoardLogger(folder.path, step))
    wandb = config.logger.wandb
    if wandb.enabled and wandb.mode != "disabled":
        name = f"{facts['method']}-{facts['sequence']}-{facts['backbone']}"
        settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]  # a mapping
        wanted.append(
            lambda: WandbLogger(
                folder.path,
                run_id=f"{facts['digest']}-seed{facts['seed']}",
                name=f"{name}-seed{facts['seed']}",
                group=f"{facts['sequence']}/{facts['method']}",
                config={**settings, "run": facts},
                project=wandb.project,
                entity=wandb.entity,
                mode=wandb.mode,
                log_model=wandb.log_model,
            )
        )
    members: list[RunLogger] = []
    for make in wanted if rank == 0 else ():
        try:
            members.append(make())
        except Exception as error:  # noqa: BLE001 (a mirror may fail in any way; the run folder is the record)
            log.warning("a logger could not start: %s: %s", type(error).__name__, error)
    return Loggers(members)
