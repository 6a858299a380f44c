"""The cache of resized pictures: the same bytes, made once, whole or not at all."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from everclip.backbones.open_clip import OpenClip
from everclip.commands import execute
from everclip.data import cache, images
from everclip.data.cache import CachedImages, cache_all, cached
from everclip.data.images import ArrayImages, ConcatSamples, FileImages, Relabelled
from everclip.data.masks import MaskedImages
from everclip.data.pairs import CaptionedImages
from everclip.data.video.arrays import ArrayClips
from everclip.digest import state_sha256
from everclip.errors import DataError, StorageError
from everclip.evaluation.classification import Classification
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import load_session
from everclip.types import ClassSet, Draw, Samples, Session, Task, TaskSequence

KINDS = (("RGB", "jpg", (90, 40)), ("RGB", "png", (33, 70)), ("L", "png", (20, 31)), ("RGB", "jpg", (32, 32)))
NOISE = np.random.Generator(np.random.PCG64(0))


def write(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 36)) -> Path:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(NOISE.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def pictures(root: Path, count: int = 10) -> FileImages:
    """Pictures of several sizes, modes and formats."""
    kinds = [KINDS[i % len(KINDS)] for i in range(count)]
    paths = [write(root / f"{i}.{ending}", mode, size) for i, (mode, ending, size) in enumerate(kinds)]
    return FileImages(paths, np.arange(count), root)


def pixels(files: Samples, backbone: OpenClip) -> torch.Tensor:
    return files.read(range(len(files)), backbone.resize).images


@pytest.fixture(scope="module")
def backbone(tiny: Callable[[], OpenClip]) -> OpenClip:
    return tiny()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded, as they are."""
    names: list[Path] = []
    decode = images.read_image

    def noted(path: Path) -> Image.Image:
        names.append(path)
        return decode(path)

    monkeypatch.setattr(images, "read_image", noted)
    return names


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_cached_pictures_are_the_pictures(kind: str, tmp_path: Path, backbone: OpenClip, read: list[Path]) -> None:
    source = pictures(tmp_path / "files", 3 * cache.CHUNK)  # more than the threads take at once
    (kept,) = cache_all([source], backbone.resize, tmp_path / "cache" if kind == "disk" else None)
    order = [5, 0, 70, 5]
    expected = [
        source.read(order, backbone.resize).images,
        source.subset([9, 3, 1]).read([2, 0], backbone.resize).images,
    ]
    read.clear()
    assert torch.equal(kept.read(order, backbone.resize).images, expected[0])
    assert torch.equal(kept.subset([9, 3, 1]).read([2, 0], backbone.resize).images, expected[1])
    assert read == []
    assert kept.read(order, backbone.resize).images.stride() == expected[0].stride()  # convolutions may depend on it
    assert (kept.fingerprint(), kept.labels.tolist()) == (source.fingerprint(), source.labels.tolist())
    assert kept.subset([1]).fingerprint() == source.subset([1]).fingerprint()
    assert len(list(tmp_path.glob("cache/*"))) == (kind == "disk")


def test_another_resizing_is_not_served_from_the_cache(tmp_path: Path, backbone: OpenClip) -> None:
    (kept,) = cache_all([pictures(tmp_path, 4)], backbone.resize, None)
    assert not kept.read([0], lambda image: torch.zeros(3, 2, 2)).images.any()
    ways = [
        (32, InterpolationMode.BILINEAR),
        (32, InterpolationMode.BICUBIC),
        ((32, 32), InterpolationMode.BICUBIC),
        (36, InterpolationMode.BICUBIC),
    ]
    chains = [Compose([Resize(size, way), CenterCrop(32), PILToTensor()]) for size, way in ways]
    assert len({cache.identity_of(chain) for chain in (*chains, *chains)}) == len(ways)


def test_a_second_run_only_looks_whether_the_pictures_are_the_same(
    tmp_path: Path, backbone: OpenClip, read: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    source = Relabelled(pictures(tmp_path / "files"), range(5, 99))
    with caplog.at_level(logging.INFO, "everclip"):
        cache_all([source], backbone.resize, tmp_path / "cache")
    assert caplog.messages == [f"caching 10 pictures of 32 x 32, 0 MB in {tmp_path / 'cache'}"]
    caplog.clear()
    read.clear()
    (kept,) = cache_all([source], backbone.resize, tmp_path / "cache")
    assert len(read) <= 5
    assert caplog.messages == []
    assert torch.equal(pixels(kept, backbone), pixels(source, backbone))


def test_pictures_ready_in_memory_are_left_alone(tmp_path: Path, backbone: OpenClip) -> None:
    ready = Relabelled(ArrayImages(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4), "ready"), range(3, 9))
    small = ArrayImages(NOISE.integers(0, 256, (4, 20, 20, 3), dtype=np.uint8), np.arange(4), "small")
    kept = cache_all([ready, small], backbone.resize, tmp_path)
    assert kept[0] is ready
    assert torch.equal(pixels(kept[1], backbone), pixels(small, backbone))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["disk", "memory"])
@pytest.mark.parametrize("wrap", [lambda files: files, lambda files: ConcatSamples([Relabelled(files, range(3, 99))])])
def test_pictures_overwritten_by_others_of_the_same_size_are_decoded_again(
    kind: str, wrap: Callable[[FileImages], Samples], tmp_path: Path, backbone: OpenClip
) -> None:
    files = FileImages([write(tmp_path / f"{i}.bmp") for i in range(8)], np.arange(8), tmp_path)
    source, folder = wrap(files), tmp_path / "cache" if kind == "disk" else None
    before, fingerprint = pixels(cache_all([source], backbone.resize, folder)[0], backbone), source.fingerprint()
    for changed in (1, 2, 3, 5, 6):  # not those by which a set is probed
        write(files.paths[changed])
    assert source.fingerprint() == fingerprint
    after = pixels(cache_all([source], backbone.resize, folder)[0], backbone)
    assert torch.equal(after, pixels(source, backbone))
    assert [i for i in range(8) if not torch.equal(before[i], after[i])] == [1, 2, 3, 5, 6]


@pytest.mark.parametrize("make", [ArrayImages, ArrayClips])
def test_arrays_are_known_by_their_pixels(make: Callable[..., Samples], tmp_path: Path, backbone: OpenClip) -> None:
    """What their fingerprint says of their files (CIFAR, MNIST: sizes alone) may stay the same."""
    values = NOISE.integers(0, 256, (8, 2, 20, 20, 3), dtype=np.uint8)
    values = values[:, 0] if make is ArrayImages else values
    order = [0, 2, 1, 3, 4, 5, 6, 7]
    for shown in (values, values[order]):
        (kept,) = cache_all([make(shown, np.arange(8), "same")], backbone.resize, tmp_path)
        assert torch.equal(pixels(kept, backbone), pixels(make(shown, np.arange(8), "same"), backbone))
        assert kept.num_frames == (2 if make is ArrayClips else None)


def test_texts_and_masks_stay_beside_cached_pictures(backbone: OpenClip) -> None:
    source = ArrayImages(NOISE.integers(0, 256, (4, 20, 20, 3), dtype=np.uint8), np.full(4, -1), "small")
    texts = [[f"{i} {word}" for word in "abcdefgh"] for i in range(4)]
    masks = NOISE.integers(0, 3, (4, 6, 6))
    sets = [CaptionedImages(source, texts), MaskedImages(source, masks)]
    draw = Draw((0, 1))
    for own, kept in zip(sets, cache_all(sets, backbone.resize, None), strict=True):
        assert isinstance(kept.pictures, CachedImages)
        read, expected = (samples.read([3, 1], backbone.resize, draw) for samples in (kept, own))
        assert torch.equal(read.images, expected.images)
        assert (read.texts, kept.texts, kept.fingerprint()) == (expected.texts, own.texts, own.fingerprint())
        assert (read.targets is None) == (expected.targets is None)
        assert read.targets is None or torch.equal(read.targets["mask"], torch.from_numpy(masks[[3, 1]]))


def test_changed_pictures_are_cached_anew(tmp_path: Path, backbone: OpenClip) -> None:
    def check(source: Samples, files: int) -> None:
        (kept,) = cache_all([source], backbone.resize, tmp_path / "cache")
        assert torch.equal(pixels(kept, backbone), pixels(source, backbone))
        assert len(list(tmp_path.glob("cache/*"))) == files

    check(pictures(tmp_path / "files", 3), 1)
    other = write(tmp_path / "files" / "1.png", "L", (80, 80))
    check(FileImages([tmp_path / "files" / "0.jpg", other], np.arange(2), tmp_path / "files"), 2)


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_data_sets_with_files_of_the_same_names_and_sizes_are_told_apart(
    kind: str, tmp_path: Path, backbone: OpenClip
) -> None:
    files = [[write(tmp_path / top / f"{i}.bmp") for i in range(4)] for top in "ab"]
    for path in (*files[0], *files[1]):
        os.utime(path, (0, 0))
    sets = [FileImages(paths, np.arange(4), paths[0].parent) for paths in files]
    assert sets[0].fingerprint() == sets[1].fingerprint()
    for source, kept in zip(
        sets, cache_all(sets, backbone.resize, tmp_path / "cache" if kind == "disk" else None), strict=True
    ):
        assert torch.equal(pixels(kept, backbone), pixels(source, backbone))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_text("no array"), id="foreign"),
        pytest.param(lambda path: np.save(path, np.zeros((10, 3, 32, 31), np.uint8)), id="shape"),
        pytest.param(lambda path: np.save(path, np.zeros((10, 3, 32, 32), np.float32)), id="type"),
        pytest.param(lambda path: np.save(path, np.zeros((10, 3, 32, 32), np.uint8)), id="pixels"),
    ],
)
def test_a_damaged_file_is_made_anew(
    damage: Callable[[Path], object], tmp_path: Path, backbone: OpenClip, caplog: pytest.LogCaptureFixture
) -> None:
    source = pictures(tmp_path / "files")
    cache_all([source], backbone.resize, tmp_path / "cache")
    (path,) = tmp_path.glob("cache/*.npy")
    damage(path)
    (kept,) = cache_all([source], backbone.resize, tmp_path / "cache")
    assert f"{path} " in caplog.text
    assert torch.equal(pixels(kept, backbone), pixels(source, backbone))
    assert np.load(path).shape == (10, 3, 32, 32)


def _build(source: Samples, backbone: OpenClip, folder: Path) -> None:
    cache_all([source], backbone.resize, folder)


def test_several_builders_at_once_leave_one_good_file(tmp_path: Path, backbone: OpenClip) -> None:
    source = pictures(tmp_path / "files", 100)
    fork = multiprocessing.get_context("fork")
    builders = [fork.Process(target=_build, args=(source, backbone, tmp_path / "cache")) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    (path,) = tmp_path.glob("cache/*")
    assert np.array_equal(np.load(path), pixels(source, backbone).numpy())


def test_a_disk_too_small_is_said_before_anything_is_written(
    tmp_path: Path, backbone: OpenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=4000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"has 0 MB of room, but .* take 0 MB; .* use data\.cache=off"):
        cache_all([pictures(tmp_path / "files", 2)], backbone.resize, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_fills_leaves_nothing_behind(
    tmp_path: Path, backbone: OpenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        cache_all([pictures(tmp_path / "files", 2)], backbone.resize, tmp_path / "cache")
    assert list(tmp_path.glob("cache/*")) == []


def test_an_unreadable_picture_is_named_and_nothing_left_behind(tmp_path: Path, backbone: OpenClip) -> None:
    source = pictures(tmp_path / "files")
    source.paths[7].write_bytes(b"no picture")
    with pytest.raises(DataError, match=f"{source.paths[7]} cannot be read"):
        cache_all([source], backbone.resize, tmp_path / "cache")
    assert list(tmp_path.glob("cache/*")) == []


def test_what_killed_builders_left_is_removed(tmp_path: Path, backbone: OpenClip) -> None:
    source = pictures(tmp_path / "files", 2)
    cache_all([source], backbone.resize, tmp_path / "cache")
    (path,) = tmp_path.glob("cache/*")
    path.unlink()
    left, living = (path.with_name(f".{path.name}.host.{i}.tmp") for i in range(2))
    left.touch()
    os.utime(left, (0, 0))
    living.touch()
    cache_all([source], backbone.resize, tmp_path / "cache")
    assert set(tmp_path.glob("cache/*")) == {path, living}


def test_only_what_a_sequence_uses_is_cached(tmp_path: Path, backbone: OpenClip) -> None:
    sets = [pictures(tmp_path / name, 2) for name in ("train", "seen", "later", "held_out")]
    classes = ClassSet((0, 1), ("a", "b"))
    tasks = [
        Task(name, classes, files, Classification(), place)
        for place, (name, files) in enumerate(zip(("seen", "later", "held_out"), sets[1:], strict=True))
    ]
    session = Session(0, "base", classes, classes, sets[0])
    sequence = TaskSequence("made", (session,), tuple(tasks[:2]), held_out=tasks[2])
    kept = cached(sequence, backbone.resize, None)
    assert kept.held_out is not None
    used: Sequence[Samples] = [kept.sessions[0].train, kept.tasks[0].samples, kept.held_out.samples]
    for files, source in zip(used, (sets[0], sets[1], sets[3]), strict=True):
        assert isinstance(files, CachedImages)
        assert torch.equal(pixels(files, backbone), pixels(source, backbone))
    assert kept.tasks[1].samples is sets[2]
    assert kept.fingerprint() == sequence.fingerprint()


def test_a_run_gives_the_same_with_and_without(compose: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("ant", "bee", "cat"):
        for i in range(6):
            write(tmp_path / "photos" / name / f"{i}.png", size=(30 + i, 40))
    results = []
    for index, kind in enumerate(("off", "disk", "disk")):
        words = ("sequence.base_classes=2", "sequence.way=1", "method=ncm", "trainer=cpu")
        root = f"sequence.root={tmp_path / 'photos'}"
        places = f"paths.cache={tmp_path / 'cache'}"
        composed = compose("sequence=folder", root, *words, "logger=none", places, f"data.cache={kind}")
        folder = RunFolder(tmp_path / f"run{index}")
        execute.run(
            OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"]), composed.hydra, folder
        )
        assert ("caching" in (folder.path / "run.log").read_text()) == (index == 1)
        means, _ = load_session(folder.checkpoint(1))
        results.append(((folder.path / "accuracy_matrix.csv").read_text(), state_sha256(means)))
    assert results == [results[0]] * 3
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 4
