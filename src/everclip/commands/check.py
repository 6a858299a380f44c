"""`check=true`: what would run, without weights."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from everclip.commands.origin import confirm
from everclip.commands.parts import make_parts, make_training
from everclip.commands.sequences import shorten
from everclip.reporting.console import quieten_libraries
from everclip.runs.folder import RunFolder

log = logging.getLogger("everclip")


def check(config: DictConfig, hydra: DictConfig) -> None:
    """`check=true`: builds everything without weights and says what would run."""
    quieten_libraries()
    with torch.device("cpu"):
        training = make_training(config)
        sequence, backbone, method = make_parts(config, load=False)
    sessions = shorten(sequence, config).sessions
    sizes = [len(session.new) for session in sessions]
    judged = sequence.evaluated(len(sessions) - 1)
    test = sum(len(sequence.tasks[task].samples) for task in judged)
    title = "picture" if all(session.train.num_frames is None for session in sessions) else "clip"
    taught, order = f"{_runs(sizes)} classes", f", order {sequence.class_order}"
    if not any(sizes):
        taught, order = f"{_runs([session.num_samples for session in sessions])} training {title}s", ""
    judges = "test" if config.validation is None else "held-out training"
    weights = ", ".join(f"{key} {value}" for key, value in backbone.provenance.items() if value is not None)
    total = sum(p.numel() for p in method.parameters())
    most = "" if config.train.max_steps is None else f", at most {config.train.max_steps} steps a session"
    images = [len(session.train) for session in sessions]
    base, *later = (method.num_arriving(sizes[:end], images[:end]) for end in range(1, len(sizes) + 1))
    trained = method.num_trainable() + base
    each = "each later session" if len(set(later)) == 1 else f"session 1, {later[-1]:,} in the last" if later else ""
    grows = f", and {later[0]:,} more in {each}" if any(later) else ""
    kept = method.kept_bytes(sizes, sum(images))
    folder = RunFolder(Path(hydra.runtime.output_dir))
    state = folder.state or "not started"
    if folder.begun:
        confirm(config, folder, sequence)
    for subject, text in {
        "method": f"{hydra.runtime.choices.method}: {trained:,} trainable of {total + base:,} parameters{grows}",
        "backbone": f"{hydra.runtime.choices.backbone}: {weights}",
        "sequence": f"{sequence.name}: {taught}, {test} {judges} {title}s{order}",
        "training": f"{training.base.epochs} epochs of batch {training.base.batch_size} in the base session, "
        f"{training.later.epochs} of batch {training.later.batch_size} later{most}",
        "keeps": f"{kept / 1e6:,.1f} MB after the last session, in memory and in its checkpoint",
        "folder": f"{hydra.runtime.output_dir} ({state})",
    }.items():
        log.info("%-9s %s", subject, text)


def _runs(sizes: list[int]) -> str:
    """`60 + 8 x 5` for [60, 5, 5, ...]."""
    runs: list[list[int]] = []
    for size in sizes:
        if runs and runs[-1][1] == size:
            runs[-1][0] += 1
        else:
            runs.append([1, size])
    return " + ".join(str(size) if count == 1 else f"{count} x {size}" for count, size in runs)
