"""Less of a sequence, to find mistakes quickly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from everclip.config.checks import check_values
from everclip.data.images import ArrayImages
from everclip.data.reduced import limited, memorised
from everclip.errors import DataError, NotFiniteError
from everclip.runs.folder import RunFolder
from everclip.types import NO_CLASS
from tests.data.test_sequences import small


def test_the_first_samples_of_each_class_are_left(cache_dir: Path) -> None:
    whole = small(cache_dir)
    less = limited(whole, 1)
    for before, session, task in zip(whole.sessions, less.sessions, less.tasks, strict=True):
        assert Counter(session.train.labels.tolist()) == dict.fromkeys(session.new.ids, 1)
        assert Counter(task.samples.labels.tolist()) == dict.fromkeys(task.classes.ids, 1)
        assert session.train.labels[0] == before.train.labels[0]
    assert less.held_out is not None
    assert len(less.held_out.samples) == len(less.held_out.classes.ids)
    assert less.fingerprint() != whole.fingerprint()
    unnamed = ArrayImages(np.zeros((40, 4, 4, 3), np.uint8), np.full(40, NO_CLASS), "no classes")
    pairs = replace(whole, sessions=tuple(replace(session, train=unnamed) for session in whole.sessions))
    assert len(limited(pairs, 2).sessions[0].train) == 16


def test_what_is_trained_on_judges(cache_dir: Path) -> None:
    whole = small(cache_dir)
    less = memorised(whole, 4)
    assert less.held_out is None
    for session, task in zip(less.sessions, less.tasks, strict=True):
        assert len(session.train) == 4
        assert task.samples is session.train
        assert len(set(session.train.labels.tolist())) == min(4, len(session.new.ids))
    empty = replace(whole.sessions[0], train=whole.sessions[0].train.subset([]))
    with pytest.raises(DataError, match="overfit=4 judges by training samples, of which session base has none"):
        memorised(replace(whole, sessions=(empty, *whole.sessions[1:])), 4)


@pytest.mark.parametrize("option", ["fast", "overfit", "profiler", "anomaly"])
def test_ways_to_look_for_mistakes_compose(option: str, compose: Callable[..., DictConfig]) -> None:
    config = compose(f"debug={option}", "method=lora")
    check_values(config)
    changed = (config.limit, config.overfit, config.trainer.profiler, config.trainer.detect_anomaly)
    assert changed != (None, None, "off", False)


def test_a_profile_lies_in_the_run_folder(run: Callable[..., RunFolder]) -> None:
    folder = run("trainer.profiler=simple", "trainer.detect_anomaly=true", "max_sessions=1", "train.max_steps=1")
    (told,) = (folder.path / "profile").iterdir()
    assert "session_00" in told.name
    assert "run_training_batch" in told.read_text()


@pytest.mark.filterwarnings("ignore:Error detected in:UserWarning")
def test_the_operation_whose_gradient_is_not_finite_is_named(run: Callable[..., RunFolder]) -> None:
    with pytest.raises(NotFiniteError, match=r"gradient that \w+Backward0 gives is not finite in session 0, phase"):
        run("method=lora", "trainer.detect_anomaly=true", "optimizer.lr=1e30", "max_sessions=1")
