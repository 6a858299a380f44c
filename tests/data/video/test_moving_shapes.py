"""The embedded clips: real files in the layout of UCF101, whose motion no single frame tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torchvision.transforms import PILToTensor

from everclip.data.images import FileImages
from everclip.data.sequences import moving_shapes
from everclip.data.sequences.moving_shapes import captioned, dataset, grounding
from everclip.data.video.form import Clips
from everclip.data.video.sampling import Even, Segment
from everclip.errors import ConfigError
from tests.data.conftest import paths

CLIPS = Clips(Segment(4), flip=False)
SMALL = {"looks": ["red star"], "motions": ["moving right", "moving left"], "train_per_class": 5, "test_per_class": 5,
         "length": 8}  # fmt: skip


def test_they_are_files_in_groups_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(clips=CLIPS, cache_dir=str(tmp_path), **SMALL)  # type: ignore[arg-type]
    assert data.names == ("red star moving right", "red star moving left")
    assert paths(data.test)[3:6] == [f"v_RedStarMovingRight_{n}.mp4" for n in ("g01_c04", "g02_c01")] + [
        "v_RedStarMovingLeft_g01_c01.mp4"
    ]
    groups = [{name.split("_c")[0] for name in paths(part)} for part in (data.train, data.test)]
    assert not groups[0] & groups[1]
    monkeypatch.setattr(moving_shapes, "write_video", None)
    again = dataset(clips=CLIPS, cache_dir=str(tmp_path), **SMALL)  # type: ignore[arg-type]
    assert again.train.fingerprint() == data.train.fingerprint()


def test_opposite_motions_are_one_played_backwards(tmp_path: Path) -> None:
    data = dataset(clips=CLIPS, cache_dir=str(tmp_path), **SMALL)  # type: ignore[arg-type]
    assert isinstance(data.test, FileImages)
    clips = data.test.read(range(10), PILToTensor()).images.float()
    assert clips.shape == (10, 4, 3, 64, 64)
    right = np.array([red_column(clip) for clip in clips[:5].numpy()])
    left = np.array([red_column(clip) for clip in clips[5:].numpy()])
    assert (np.diff(right, axis=1) > 0).all()
    assert (np.diff(left, axis=1) < 0).all()
    assert abs(right.mean() - left.mean()) < 6


def red_column(clip: np.ndarray) -> list[float]:
    """Where the red object is in each frame (3, H, W): the mean column, weighted by redness."""
    weights = np.maximum(clip[:, 0] - clip[:, 1:].max(axis=1) - 60, 0).sum(axis=1) + 1e-6
    return (weights * np.arange(weights.shape[-1])).sum(axis=-1) / weights.sum(axis=-1)  # type: ignore[no-any-return]


def test_words_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="motions are of moving right, moving left"):
        dataset(clips=CLIPS, cache_dir=str(tmp_path), motions=["dancing"])
    with pytest.raises(ValueError, match="is no class of clips"):
        dataset(clips=CLIPS, cache_dir=str(tmp_path), looks=["quick fox"])
    assert list(tmp_path.rglob("*.mp4")) == []


def test_captioned_clips_come_beside_their_reverse(tmp_path: Path) -> None:
    data = captioned(clips=Clips(Segment(8)), cache_dir=str(tmp_path), train_clips=2, test_clips=4, length=8)
    assert [texts[1].split("is a ")[1].split()[:3] for texts in data.test.texts[::2]] == [
        texts[1].split("is a ")[1].split()[:3] for texts in data.test.texts[1::2]
    ]
    assert len({text for texts in data.test.texts for text in texts}) == 12
    clips = data.test.pictures.read(range(4), PILToTensor()).images.float()
    for forth, back in zip(clips[::2], clips[1::2], strict=True):
        assert (forth.mean(dim=0) - back.mean(dim=0)).abs().mean() < 2  # grey levels
        assert (forth - back.flip(0)).abs().mean() < (forth - back).abs().mean()
    for wrong in (3, 700):
        with pytest.raises(ConfigError, match="must be even, and at most 600"):
            captioned(clips=CLIPS, cache_dir=str(tmp_path), test_clips=wrong)


def test_a_text_is_of_one_scene_and_another_shows_its_reverse(tmp_path: Path) -> None:
    of = {"name": "g", "clips": Clips(Even(8)), "cache_dir": str(tmp_path), "train_clips": 2, "test_clips": 2}
    sequence = grounding(domains=["cards", "quilts"], length=32, **of)  # type: ignore[arg-type]
    assert [session.name for session in sequence.sessions] == ["cards", "quilts"]
    (session, _), batch = sequence.sessions, sequence.tasks[0].samples.read([0, 1], PILToTensor())
    assert batch.images.shape == (2, 8, 3, 64, 64)
    assert batch.targets is not None
    moments, judged = batch.targets["moments"], batch.targets["judged"]
    assert moments[:, 0].diff(dim=-1).tolist() == [[0.25], [0.25]]  # the shortest: four of them fill the clip
    assert judged[..., 0].sum(dim=1).tolist() == [8, 8]  # two parts of eight, very good
    assert [len(texts) for texts in session.train.texts] == [1, 1]
    with pytest.raises(ConfigError, match="must be at least 32, for 4 scenes"):
        grounding(domains=["cards"], length=31, **of)  # type: ignore[arg-type]
