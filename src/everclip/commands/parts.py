"""From a composed configuration to the parts of a run: the only place that puts them together."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig
from torch import nn

from everclip.backbones.base import Backbone
from everclip.commands.prompts import check_prompts, warn_of_long_captions, warn_of_twins
from everclip.commands.sequences import make_given, make_sequence
from everclip.config.build import build
from everclip.config.checks import check_group
from everclip.config.schema import INJECTED
from everclip.data.cache import cached
from everclip.data.feature_files import GIGABYTE, FeatureFiles
from everclip.errors import ConfigError
from everclip.methods.base import Method
from everclip.training.engine import Engine
from everclip.training.evaluation import check_fit
from everclip.training.phases import Budget, Training
from everclip.training.runner import seed_everything
from everclip.types import ClassTexts, TaskSequence

FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # on all devices; Adagrad on a CPU alone


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
    make_optimizer = partial(build, "optimizer", config.optimizer, **_fused(config))
    make_optimizer([nn.Parameter(torch.zeros(1))])
    schedule = build("scheduler", config.scheduler)
    return Training(base, later, make_optimizer, schedule, config.trainer.log_every, train.augment, train.views)


def _fused(config: DictConfig) -> dict[str, bool]:
    """Whether the optimiser moves all parameters in one pass over memory, where nothing says how and it can.

    Scaled gradients (fp16) could not be clipped then.
    """
    said = config.optimizer.keys() & {"fused", "foreach", "capturable", "differentiable"}
    can = get_object(config.optimizer._target_) in FUSED
    return {"fused": True} if can and not said and config.trainer.precision != "16-mixed" else {}


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
    for group in ("backbone", "method", *INJECTED):
        check_group(group, config[group])
    sequence = make_sequence(config)
    if config.max_sessions is not None and config.max_sessions > len(sequence.sessions):
        raise ConfigError(f"max_sessions={config.max_sessions}, but the sequence has {len(sequence.sessions)} sessions")
    check_fit(get_object(config.method._target_), sequence, config.train.augment)
    backbone = build("backbone", config.backbone, load=load)
    seed_everything(config.seed)
    method = build("method", settled(config, sequence).method, backbone)
    for part in make_given(config).values():
        if isinstance(part, ClassTexts) and part.texts:  # a class without is told before anything is trained
            part.of(sequence.sessions[-1].seen)
    check_fit(method, sequence, config.train.augment)
    apart = sequence.protocol != "class_incremental"  # domains may share a name that is judged in each alone
    seen = sequence.sessions[-1].seen
    never = [task.classes for task in sequence.tasks if not set(task.classes.ids) <= set(seen.ids)]
    for classes in ([session.new for session in sequence.sessions] if apart else [seen]) + never:
        check_prompts(method, classes)
    warn_of_twins([task.classes for task in sequence.tasks] + ([] if apart else [seen]))
    trained = [samples for session in sequence.sessions for samples in session.samples().values()]
    warn_of_long_captions(backbone, [*trained, *(task.samples for task in sequence.tasks)])
    method.check(config.max_sessions or len(sequence.sessions))
    if load and config.trainer.compile:
        backbone.compile_blocks()
    if load and config.trainer.gradient_checkpointing:
        backbone.checkpoint_blocks()
    return sequence, backbone, method


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
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "accumulate", "auto_batch",
             "profiler", "detect_anomaly")  # fmt: skip
    loading = {name: config.data[name] for name in ("num_workers", "eval_batch_size", "features")}
    loading["features_limit"] = int(config.data.features_gb * GIGABYTE)
    if config.data.features == "disk":
        loading["features"] = FeatureFiles(Path(config.paths.cache, "features"), loading["features_limit"])
    return {name: config.trainer[name] for name in names} | loading | {"seed": config.seed}
