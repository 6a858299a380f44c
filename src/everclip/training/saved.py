"""The record of a session in training, from which an interrupted run goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import CheckpointError, Progress, load_progress, load_session, save_session
from everclip.training.evaluation import Judge, Kept
from everclip.types import TaskSequence

log = logging.getLogger("everclip")


@dataclass(frozen=True)
class Saved:
    """A state of a session in training.

    Attributes:
        tensors: of the method.
        progress: how far the session was.
        before: the state from which the phase was prepared; None if it goes on without.
    """

    tensors: dict[str, Tensor]
    progress: Progress
    before: Saved | None = None


def read_saved(folder: RunFolder, identity: Mapping[str, Any], session: int) -> Saved | None:
    """How far session `session` is; None, with a warning where there should be one, if that is not known."""
    if not folder.progress.is_file():
        return None
    try:
        saved = _load(folder.progress, identity)
        if saved.progress.session != session:  # left over from a session that is done
            return None
        if not saved.progress.prepared:
            return saved
        before = _load(folder.phase_start, identity)
        if (before.progress.session, before.progress.phase) != (session, saved.progress.phase):
            raise CheckpointError(f"{folder.phase_start} is of another phase than {folder.progress}")
        return Saved(saved.tensors, saved.progress, before)
    except CheckpointError as error:
        log.warning("%s; this session begins anew", error)
        return None


def save_kept(folder: RunFolder, identity: Mapping[str, Any], session: int, kept: Kept) -> None:
    """Writes what is kept of a session's tasks, if anything is."""
    if kept:
        tensors = {f"{task}/{name}": value for task, own in kept.items() for name, value in own.items()}
        save_session(folder.kept(session), tensors, {**identity, "session": session})


def recall_kept(
    judge: Judge,
    records: list[dict[str, Any]],
    folder: RunFolder,
    identity: Mapping[str, Any],
    sequence: TaskSequence,
) -> None:
    """Gives a judge what is kept of recorded sessions' tasks; takes away the records from where it is not there."""
    for session in range(len(records)):
        own = [task for task in sequence.keeping(session) if sequence.tasks[task].session == session]
        path = folder.kept(session)
        try:
            tensors, meta = load_session(path) if own else ({}, {})
            check_identity(path, meta, {**identity, "session": session} if own else {})
        except CheckpointError as error:
            log.warning("%s; going back to that session, and what was trained after it is trained again", error)
            del records[session:]
            return
        for task in own:
            mark = f"{task}/"
            judge.keep({task: {name.removeprefix(mark): v for name, v in tensors.items() if name.startswith(mark)}})


def _load(path: Path, identity: Mapping[str, Any]) -> Saved:
    tensors, progress, meta = load_progress(path)
    check_identity(path, meta, identity)
    return Saved(tensors, progress)


def check_identity(path: Path, meta: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Compares a checkpoint with the run.

    Raises:
        CheckpointError: it was written by another one.
    """
    for key, value in identity.items():
        if meta.get(key) != value:
            raise CheckpointError(f"{path} belongs to another run: its {key} differs")
