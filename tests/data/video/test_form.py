"""Files as samples: drawn frames, views, one cut for a whole clip, and what is kept of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import PILToTensor

from everclip.data.augment import RandomView
from everclip.data.cache import cache_all
from everclip.data.images import FileImages
from everclip.data.loading import SeededBatches, make_loader
from everclip.data.pictures import damages, shared
from everclip.data.video import reading
from everclip.data.video.form import USUAL, Clips
from everclip.data.video.sampling import Dense, Fps, Segment
from everclip.errors import DataError
from everclip.types import Draw
from tests.data.video.conftest import Write, bars, numbers

PREPARE = PILToTensor()


def shown(form: Clips, path: Path, draw: Draw | None = None, position: int = 0) -> list[int]:
    clip = form.read(path, PREPARE, draw, position)
    return numbers(clip.flatten(0, -4).permute(0, 2, 3, 1).numpy())


def test_frames_follow_from_key_and_position_alone(write: Write) -> None:
    path, form = write("a.mp4"), Clips(Segment(3))
    assert (form.num_frames, form.drawn) == (3, True)
    assert shown(form, path) == [2, 6, 10]
    drawn = [shown(form, path, Draw((5, epoch)), position) for epoch in range(4) for position in range(4)]
    assert drawn == [shown(form, path, Draw((5, epoch)), position) for epoch in range(4) for position in range(4)]
    assert len({tuple(frames) for frames in drawn}) > 8
    assert all(4 * part <= frames[part] < 4 * part + 4 for frames in drawn for part in range(3))
    assert shown(form, path, Draw((5, 0), offset=3), 0) == drawn[3]


def test_shuffled_frames_are_the_same_without_their_order(write: Write) -> None:
    paths, form = [write(f"{name}.mp4") for name in "ab"], Clips(Segment(6), shuffled=True)
    plain, mixed = shown(Clips(Segment(6)), paths[0]), [shown(form, path) for path in paths]
    assert plain == sorted(mixed[0]) == sorted(mixed[1])
    assert len({tuple(frames) for frames in (plain, *mixed)}) == 3
    assert mixed == [shown(form, path) for path in paths]
    drawn = [shown(form, paths[0], Draw((5, epoch))) for epoch in range(4)]
    assert all(sorted(frames) != frames for frames in drawn)
    assert [sorted(frames) for frames in drawn] == [shown(Clips(Segment(6)), paths[0], Draw((5, e))) for e in range(4)]
    assert form.facts() != Clips(Segment(6)).facts()


def test_views_and_crops_are_for_testing(write: Write) -> None:
    wide = np.concatenate([bars(), np.full_like(bars(), 255)], axis=2)
    path, form = write("a.mp4", wide), Clips(Segment(2), views=2, crops=3)
    clip = form.read(path, PREPARE, None, 0)
    assert clip.shape == (6, 2, 3, 32, 32)
    assert [numbers(view.permute(0, 2, 3, 1).numpy()) for view in clip[::3]] == [[1, 7], [4, 10]]
    assert clip[0, 0, :, :, -1].float().mean() < 100 < 200 < clip[2, 0, :, :, -1].float().mean()
    assert form.trained.read(path, PREPARE, None, 0).shape == (2, 3, 32, 64)
    assert form.read(path, PREPARE, Draw((0,)), 0).shape == (2, 3, 32, 64)


@pytest.mark.parametrize("flip", [True, False])
def test_all_frames_are_cut_and_mirrored_alike(flip: bool, write: Write) -> None:
    still = np.repeat(bars()[:1], 6, axis=0)
    still[:, :, 20:, 0] = 255
    path, form = write("a.mp4", still, options={"crf": "1"}), Clips(Segment(3), flip=flip)
    plain = form.read(path, PREPARE, None, 0)
    for kind in ("flip", "crop_flip"):
        draws = [Draw((epoch,), view=RandomView(kind, 32)) for epoch in range(12)]  # type: ignore[arg-type]
        clips = [form.read(path, PREPARE, draw, 0) for draw in draws]
        assert all((clip.float() - clip[:1].float()).abs().max() < 12 for clip in clips)
        if kind == "flip":
            mirrored = [(clip.float() - plain.flip(-1).float()).abs().mean() < 4 for clip in clips]
            assert any(mirrored) == flip
            assert not all(mirrored)
        else:
            assert len({clip.shape for clip in clips}) == 1
            assert any(clip.ne(plain).any() for clip in clips)


def test_clips_are_samples_of_files(write: Write, tmp_path: Path) -> None:
    paths = [write(f"{name}.mp4", bars(count)) for name, count in (("a", 12), ("b", 9), ("c", 1))]
    clips = FileImages(paths, np.array([0, 1, 1]), tmp_path, form=Clips(Segment(4)))
    batch = clips.read([2, 0], PREPARE)
    assert batch.images.shape == (2, 4, 3, 32, 32)
    assert batch.labels.tolist() == [1, 0]
    other = FileImages(paths, np.array([0, 1, 1]), tmp_path, form=Clips(Segment(4), flip=False))
    assert len({clips.fingerprint(), other.fingerprint(), clips.subset([0, 1]).fingerprint()}) == 3
    assert (
        FileImages(paths, clips.labels, tmp_path, form=Clips(Segment(4), backend="pyav")).fingerprint()
        == clips.fingerprint()
    )
    assert (clips.num_frames, clips.subset([0]).drawn) == (4, True)
    write("b.mp4", bars(12)).rename(paths[1])
    assert shared({"training": clips.subset([0]), "test": clips.subset([1])})[0].startswith(
        "1 test clips are training clips too"
    )


def test_broken_clips_are_found(write: Write, tmp_path: Path) -> None:
    path = write("a.mp4")
    (tmp_path / "b.mp4").write_bytes(path.read_bytes()[:500])
    ((damaged, why),) = damages([path, tmp_path / "b.mp4"], Clips(Segment(2))).items()
    assert damaged == tmp_path / "b.mp4"
    assert why.startswith(f"{tmp_path / 'b.mp4'} cannot be read as a video")
    assert damages([path], Clips(Segment(2)), deep=True) == {}


def test_the_cache_of_pictures_holds_what_evaluation_sees(write: Write, tmp_path: Path) -> None:
    clips = FileImages([write("a.mp4")], np.array([0]), tmp_path, form=Clips(Segment(3)))
    resize = Small()
    (kept,) = cache_all([clips], resize, None)
    assert kept.read([0], resize).images.equal(clips.read([0], resize).images)
    draw = Draw((3,))
    assert kept.read([0], resize, draw).images.equal(clips.read([0], resize, draw).images)
    assert not kept.read([0], resize, draw).images.equal(kept.read([0], resize).images)


class Small:
    def __call__(self, image: Image.Image) -> torch.Tensor:
        return PREPARE(image.resize((8, 8)))


@pytest.mark.parametrize("sampling", [Segment(3), Dense(3, 2), Fps(3, fps=2)], ids=["segment", "dense", "fps"])
def test_decoded_frames_are_kept_and_equal(sampling: Any, write: Write, tmp_path: Path) -> None:
    path, draw = write("a.mp4"), Draw((1,))
    plain = Clips(sampling, short_side=16)
    kept = Clips(sampling, short_side=16, cache="disk", cache_dir=str(tmp_path / "cache"))
    first = [kept.read(path, PREPARE, each, 0) for each in (None, draw)]
    assert all(a.equal(plain.read(path, PREPARE, each, 0)) for a, each in zip(first, (None, draw), strict=True))
    (pixels,) = (tmp_path / "cache" / "videos").rglob("*.npy")
    assert np.load(pixels).shape == (len(sampling.pool(np.arange(12) / 8)), 16, 16, 3)
    path.rename(tmp_path / "moved.mp4")  # known by what is in it
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("everclip.data.video.kept.open_video", None)
        assert kept.read(tmp_path / "moved.mp4", PREPARE, draw, 0).equal(first[1])
    pixels.write_bytes(pixels.read_bytes()[:50])
    assert kept.read(tmp_path / "moved.mp4", PREPARE, draw, 0).equal(first[1])


def test_where_frames_are_is_kept_until_the_file_changes(write: Write, tmp_path: Path) -> None:
    path, form = write("a.mp4"), Clips(Segment(2), cache_dir=str(tmp_path / "cache"))
    assert shown(form, path) == [3, 9]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("everclip.data.video.with_pyav.AvVideo._look", None)
        assert shown(form, path) == [3, 9]
    before = path.stat()
    write("a.mp4", bars(6))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert len(form.read(path, PREPARE, None, 0)) == 2
    with form._open(path) as video:
        assert len(video) == 6


def test_loader_processes_read_the_same(write: Write, tmp_path: Path) -> None:
    paths = [write(f"{name}.mp4", bars(count)) for name, count in (("a", 12), ("b", 9))]
    clips = FileImages(paths, np.array([0, 1]), tmp_path, form=Clips(Segment(4)))
    read = [
        torch.cat([batch.images for batch in make_loader(clips, PREPARE, SeededBatches(2, 1, (7,), steps=4), workers)])
        for workers in (0, 1)
    ]
    assert read[0].equal(read[1])


def test_files_are_closed(write: Write) -> None:
    path, form = write("a.mp4"), Clips(Segment(2))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        form.read(path, PREPARE, None, 0)
    with pytest.raises(DataError), reading.open_video(path) as video:
        next(video.frames([99]))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_of_clips_is_no_clip(write: Write, tmp_path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in bars(3)]
    for name in ("frames", "mixed", "animations"):
        (tmp_path / name).mkdir()
        frames[0].save(tmp_path / name / "a.gif", save_all=True, append_images=frames[1:])
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "frames" / f"{number}.png")
    write("mixed/a.mp4")
    assert [USUAL.accepts(tmp_path / name) for name in ("frames", "mixed", "animations")] == [True, False, False]
    assert [file.name for file in USUAL.files([tmp_path / "frames"])] == ["0.png", "1.png", "2.png"]
