from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import PILToTensor

from everclip.data.drawing import shapes
from everclip.data.sequences.shapes import class_incremental_shapes
from everclip.errors import ConfigError, DataError
from everclip.types import ClassSet, TaskSequence


def small(cache: Path, **changes: object) -> TaskSequence:
    options: dict[str, object] = {
        "name": "small", "base_classes": 4, "way": 2, "shots": 2, "train_per_class": 3, "test_per_class": 2,
        "num_classes": 8, "cache_dir": str(cache),
    }  # fmt: skip
    return class_incremental_shapes(**(options | changes))  # type: ignore[arg-type]  # keywords of one test


def test_shapes_fscil_has_the_protocols_sizes(cache_dir: Path) -> None:
    sequence = class_incremental_shapes(
        name="shapes_fscil", base_classes=60, way=5, shots=5, train_per_class=6, test_per_class=2,
        cache_dir=str(cache_dir),
    )  # fmt: skip
    assert [len(session.new) for session in sequence.sessions] == [60, *[5] * 8]
    assert [len(session.train) for session in sequence.sessions] == [360, *[25] * 8]
    assert [len(session.seen) for session in sequence.sessions] == list(range(60, 101, 5))
    assert [len(task.samples) for task in sequence.tasks] == [120, *[10] * 8]
    assert sequence.held_out is not None
    assert set(sequence.held_out.classes.names).isdisjoint(sequence.sessions[-1].seen.names)


def test_sessions_hold_only_their_own_classes(cache_dir: Path) -> None:
    seen: set[int] = set()
    for session, task in zip(small(cache_dir).sessions, small(cache_dir).tasks, strict=True):
        assert set(session.train.labels) == set(task.samples.labels) == set(session.new.ids)
        assert seen.isdisjoint(session.new.ids)
        seen |= set(session.new.ids)
        assert set(session.seen.ids) == seen


def test_pre_training_never_saw_the_classes_of_the_sequences() -> None:
    names = shapes.all_class_names()
    assert len(set(names)) == 500
    groups = [names[part] for part in (shapes.SEQUENCE_CLASSES, shapes.HELD_OUT_CLASSES, shapes.PRETRAINING_CLASSES)]
    assert [len(group) for group in groups] == [100, 20, 380]
    assert len(set().union(*groups)) == 500


def test_pictures_depend_on_seed_split_and_class_alone(tmp_path: Path) -> None:
    name, style = "striped red star", shapes.STYLES["scenes"]
    first = shapes.render(name, 3, seed=0, split=0, style=style)
    assert np.array_equal(first, shapes.render(name, 3, seed=0, split=0, style=style))
    for other in ({"seed": 1, "split": 0}, {"seed": 0, "split": 1}):
        assert not np.array_equal(first, shapes.render(name, 3, style=style, **other))
    drawn, cached = small(tmp_path), small(tmp_path)
    for before, after in zip(drawn.sessions, cached.sessions, strict=True):
        pictures = [s.train.read([0, 1], PILToTensor()).images for s in (before, after)]
        assert torch.equal(*pictures)
    assert drawn.fingerprint() == cached.fingerprint()


def test_attributes_can_be_seen() -> None:
    plain = replace(shapes.STYLES["cards"], noise=0.0, clutter=0)
    red = shapes.render("plain red square", 4, seed=0, split=0, style=plain).astype(int)
    centre = red[:, 12:20, 12:20].mean((1, 2))
    assert (centre[:, 0] > centre[:, 1] + 80).all()
    assert (centre[:, 0] > centre[:, 2] + 80).all()
    striped = shapes.render("striped red square", 4, seed=0, split=0, style=plain).astype(int)
    assert (striped[:, 10:22, 10:22, 1].std((1, 2)) > 2 * red[:, 10:22, 10:22, 1].std((1, 2))).all()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"seed": 1}, id="seed"),
        pytest.param({"shots": 1}, id="shots"),
        pytest.param({"class_order": "seed1993"}, id="order"),
        pytest.param({"templates": ("a {}.",)}, id="templates"),
        pytest.param({"style": "cards"}, id="style"),
        pytest.param({"way": 4}, id="way"),
    ],
)
def test_the_fingerprint_covers_what_can_change_a_result(changes: dict[str, object], cache_dir: Path) -> None:
    assert small(cache_dir, **changes).fingerprint() != small(cache_dir).fingerprint()


def test_columns_follow_the_class_set() -> None:
    classes = ClassSet((7, 2, 5), ("a", "b", "c"))
    assert classes.columns(torch.tensor([5, 7, 2, 5])).tolist() == [2, 0, 1, 2]
    with pytest.raises(DataError, match=r"labels \[3, 9\]"):
        classes.columns(torch.tensor([7, 3, 9]))


@pytest.mark.parametrize(
    ("ids", "names", "templates", "message"),
    [
        ((0, 0), ("a", "b"), ("{}",), "occurs twice"),
        ((0, 1), ("a",), ("{}",), "2 class ids but 1 names"),
        ((0,), ("a",), ("a photo",), "must contain {} exactly once"),
    ],
)
def test_impossible_class_sets(
    ids: tuple[int, ...], names: tuple[str, ...], templates: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassSet(ids, names, templates)
