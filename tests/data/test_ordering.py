"""Pictures with values: drawn ones, and those of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import PILToTensor

from everclip.data.drawing.discs import ATTRIBUTES, HIGH, LOW, draw_discs
from everclip.data.images import ArrayImages
from everclip.data.ordered import OrderedImages
from everclip.data.sequences.drawn_kinds import ordering_shapes
from everclip.data.sequences.ordering_table import ordering_table
from everclip.errors import ConfigError, DataError
from everclip.types import SessionView, TaskSequence

PREPARE = PILToTensor()


def test_a_picture_follows_from_seed_split_set_and_position_alone() -> None:
    few, more = draw_discs(3, seed=0, split=0, name="size"), draw_discs(5, seed=0, split=0, name="size")
    assert np.array_equal(few.pixels, more.pixels[:3])
    assert {key: own[:3].tolist() for key, own in more.values.items()} == {k: v.tolist() for k, v in few.values.items()}
    for other in ({"seed": 1}, {"split": 1}, {"name": "number"}):
        drawn = draw_discs(3, **({"seed": 0, "split": 0, "name": "size"} | other))  # type: ignore[arg-type]  # as above
        assert not np.array_equal(drawn.pixels, few.pixels)


def test_values_are_what_pictures_show() -> None:
    drawn = draw_discs(60, seed=0, split=0, name="number")
    assert all(LOW <= own.min() < own.max() <= HIGH for own in drawn.values.values())
    assert set(drawn.values["number"]) == set(range(LOW, HIGH + 1))
    red, green, blue = np.moveaxis(drawn.pixels.astype(float), -1, 0)
    brightness = np.percentile(green, 85, axis=(1, 2))  # of the background
    disc = green < 0.6 * brightness[:, None, None]
    shown = {
        "brightness": brightness,
        "redness": np.array([(r - b)[d].mean() / v for r, b, d, v in zip(red, blue, disc, brightness, strict=True)]),
        "size": disc.sum(axis=(1, 2)) / drawn.values["number"],
    }
    for attribute, seen in shown.items():
        assert np.corrcoef(seen, drawn.values[attribute])[0, 1] > 0.9, attribute
    assert np.abs(np.corrcoef(list(drawn.values.values())) - np.eye(len(ATTRIBUTES))).max() < 0.4  # independent


def test_each_session_orders_by_one_attribute_and_all_are_judged() -> None:
    def build(seed: int = 0) -> TaskSequence:
        return ordering_shapes(
            name="o", attributes=["size", "redness"], train_pictures=4, test_pictures=3, templates=["by {}"], seed=seed
        )

    sequence = build()
    assert [session.new.first_prompts() for session in sequence.sessions] == [
        ("by the size of the circles",), ("by how red the circles are",)
    ]  # fmt: skip
    assert [sequence.evaluated(0), sequence.trained(0)] == [[0, 1], [0]]
    batch = sequence.tasks[1].samples.read([2, 0], PREPARE)
    values = draw_discs(3, seed=0, split=1, name="redness").values["redness"]
    assert batch.targets is not None
    torch.testing.assert_close(batch.targets["value"], torch.tensor(values[[2, 0]]).float())
    assert batch.labels.tolist() == [1, 1]
    assert sequence.fingerprint() == build().fingerprint() != build(seed=1).fingerprint()
    with pytest.raises(ConfigError, match=r"sequence\.attributes=weight: must be one or more of number, size"):
        ordering_shapes(name="o", attributes=["weight"], train_pictures=4, test_pictures=3)


def test_values_and_weights_stay_with_their_pictures() -> None:
    pictures = ArrayImages(np.zeros((3, 2, 2, 3), np.uint8), np.arange(3), "black")
    ordered = OrderedImages(pictures, np.array([5.0, 6.0, 7.0]), np.array([0.1, 0.2, 0.7]))
    part = SessionView(ordered, 0).subset([2, 0])
    assert part.weights is not None
    assert (part.weights.tolist(), part.labels.tolist()) == ([0.7, 0.1], [2, 0])
    assert part.read([1], PREPARE).targets["value"].tolist() == [5]  # type: ignore[index]  # there are some
    other = OrderedImages(pictures, np.array([5.0, 6.0, 8.0]), np.array([0.1, 0.2, 0.7]))
    assert ordered.fingerprint() != other.fingerprint()
    for values, text in ((np.ones(2), "3 pictures, but 2 values"), (np.array([1, 2, np.nan]), "values .* finite")):
        with pytest.raises(DataError, match=text):
            OrderedImages(pictures, values)


LINES = (
    "filepath\ttitle\tcname\tvalue\tsample_weights_by_class",
    "a.png\tRank the numbers of horse.\thorse\t3\t0.75",
    "b.png\tRank the numbers of horse.\thorse\t1\t0.25",
    "b.png\tRank the numbers of apple.\tapple\t2\t0.5",
    "c.png\tRank the numbers of apple.\tapple\t7\t0.5",
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for position, name in enumerate(("a", "b", "c", "d", "e")):
        Image.new("RGB", (4, 4), (40 * position, 0, 0)).save(tmp_path / f"{name}.png")
    (tmp_path / "train.csv").write_text("\n".join(LINES) + "\n")
    test = [LINES[0], LINES[1].replace("a.png", "d.png"), LINES[4].replace("c.png", "e.png")]
    (tmp_path / "test.csv").write_text("\n".join(test) + "\n")
    return tmp_path


def read(folder: Path, **settings: Any) -> TaskSequence:
    return ordering_table(file=str(folder / "train.csv"), test_file=str(folder / "test.csv"), **settings)


def test_a_published_table_is_read(table: Path) -> None:
    sequence = read(table)
    (session,) = sequence.sessions
    assert (sequence.name, session.new.first_prompts()) == (
        "ordering_table_train", ("Rank the numbers of horse.", "Rank the numbers of apple.")
    )  # fmt: skip
    batch = session.train.read([2, 0], PREPARE)
    assert (batch.labels.tolist(), batch.images[:, 0, 0, 0].tolist()) == ([1, 0], [40, 0])
    assert batch.targets["value"].tolist() == [2, 3]  # type: ignore[index]  # there are some
    assert session.train.weights is not None
    assert session.train.weights.tolist() == [0.75, 0.25, 0.5, 0.5]
    by_category = read(table, way=1)
    assert [(s.name, s.new.ids, s.train.labels.tolist()) for s in by_category.sessions] == [
        ("horse", (0,), [0, 0]), ("apple", (1,), [1, 1])
    ]  # fmt: skip
    assert by_category.evaluated(0) == [0, 1]


def test_damaged_pictures_of_a_table_are_refused_or_left_out(table: Path) -> None:
    (table / "b.png").write_text("no picture")
    with pytest.raises(DataError, match=r"b\.png cannot be read .*sequence\.broken=leave_out"):
        read(table)
    (session,) = read(table, broken="leave_out").sessions
    assert [len(session.train), session.train.labels.tolist()] == [2, [0, 1]]
    for name in "ce":
        (table / f"{name}.png").write_text("no picture")
    with pytest.raises(DataError, match=r"category 'apple' has damaged files alone"):
        read(table, broken="leave_out")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        pytest.param("filepath", "path", "must name the columns filepath, title, cname, value", id="column"),
        pytest.param("c.png", "x.png", r"line 5: .*x\.png is not there", id="missing"),
        pytest.param("\t7\t", "\tmany\t", "line 5: value 'many' is no number", id="number"),
        pytest.param("c.png", "b.png", "line 5: .* is in category 'apple' already", id="twice"),
        pytest.param("apple.\tapple\t7", "pear.\tapple\t7", "category 'apple' has the titles", id="titles"),
        pytest.param("\t0.75", "\t0", r"line 2: sample_weights_by_class 0\.0 must be above 0", id="weight"),
        pytest.param("horse", "cow", "train.csv has no picture of category 'horse'", id="category"),
    ],
)
def test_a_wrong_table_is_refused(table: Path, old: str, new: str, text: str) -> None:
    (table / "train.csv").write_text("\n".join(LINES).replace(old, new) + "\n")
    with pytest.raises(DataError, match=text):
        read(table)
