from __future__ import annotations

import numpy as np
import pytest

from everclip.data.drawing import clips, shapes
from everclip.data.drawing.clips import CLIP_CLASSES, MOTIONS, draw_clips

PAIRS = list(zip(list(MOTIONS)[::2], list(MOTIONS)[1::2], strict=True))


def draw(name: str, count: int = 2, *, seed: int = 0, split: int = 0, frames: int = 4) -> np.ndarray:
    return draw_clips(name, count, seed=seed, split=split, style="cards", frames=frames)


def test_clips_are_the_same_on_every_machine() -> None:
    pixels = draw("red star moving right", 1)[0, ::3, 16, ::8, 0].ravel().tolist()
    assert pixels == pytest.approx([173, 163, 165, 149, 171, 164, 156, 153], abs=1)


def test_a_clip_depends_on_seed_split_class_and_position_alone() -> None:
    one, three = draw("shape growing", 1), draw("shape growing", 3)
    assert np.array_equal(one, three[:1])
    assert three.shape == (3, 4, 32, 32, 3)
    for other in (draw("shape growing", 1, seed=1), draw("shape growing", 1, split=1), draw("shape moving up", 1)):
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("look", ["shape", "red star", "dotted cyan heart"])
@pytest.mark.parametrize(("motion", "opposite"), PAIRS, ids=str)
def test_opposite_motions_are_each_other_played_backwards(look: str, motion: str, opposite: str) -> None:
    assert np.array_equal(draw(f"{look} {motion}"), draw(f"{look} {opposite}")[:, ::-1])


@pytest.mark.parametrize(("motion", "trend"), [(m, -1 if falls else 1) for m, (_, falls) in MOTIONS.items()], ids=str)
def test_the_object_does_what_the_class_says(motion: str, trend: int) -> None:
    clip = draw(f"plain red circle {motion}", 5, frames=6).astype(int)
    red = clip[..., 0] - clip[..., 1:].max(-1) > 80
    row, column = np.mgrid[:32, :32]
    size = red.sum((2, 3))
    seen = {"x": (red * column).sum((2, 3)) / size, "y": -(red * row).sum((2, 3)) / size, "scale": size}
    changing = seen[MOTIONS[motion][0]]
    assert (np.diff(changing, axis=1) * trend > 0).all()


def test_a_frame_has_the_same_distribution_whatever_happens() -> None:
    stream = np.random.Generator(np.random.PCG64(0))
    for coordinate in ("x", "y", "scale"):
        places = [clips._path(coordinate, shapes.drawer(stream, 1), shapes.Style(), 8) for _ in range(300)]
        for field in ("x", "y", "scale"):
            values = np.concatenate([getattr(place, field).ravel() for place in places])
            low, high = clips.SCALE if field == "scale" else (-(1 - clips.SCALE[0]), 1 - clips.SCALE[0])
            assert abs(values.mean() - (low + high) / 2) < 0.03, (coordinate, field)


def test_a_class_without_motion_moves_in_every_way() -> None:
    still = draw("plain red circle", 12, frames=3).astype(int)
    size = (still[..., 0] - still[..., 1:].max(-1) > 80).sum((2, 3))
    change = size[:, -1] - size[:, 0]
    assert (change > 100).any()
    assert (change < -100).any()
    assert (abs(change) < 20).any()


def test_classes_are_distinct_and_motions_balanced() -> None:
    names = [name for kind in CLIP_CLASSES.values() for name in kind]
    assert len(set(names)) == len(names)
    looks = {name.rsplit(f" {motion}", 1)[0] for name in CLIP_CLASSES["mixed"] for motion in MOTIONS if motion in name}
    for look in looks:
        motions = [name.removeprefix(f"{look} ") for name in CLIP_CLASSES["mixed"] if name.startswith(f"{look} ")]
        assert tuple(motions) in PAIRS, look
    for motion in MOTIONS:
        assert sum(name.endswith(motion) for name in names) == 3


@pytest.mark.parametrize("name", ["moving left", "star red", "red red star", "red", "red star flying"], ids=str)
def test_a_name_of_other_words_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no class of clips"):
        draw(name)
