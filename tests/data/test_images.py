from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everclip.backbones.base import Backbone
from everclip.data.images import ArrayImages, ConcatSamples, FileImages, read_image
from everclip.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([0, 0, 1, 1, 2, 2])


@pytest.fixture
def files(tmp_path: Path) -> FileImages:
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, pixels in zip(paths, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)
    return FileImages(paths, LABELS, tmp_path)


def test_files_and_arrays_give_the_same_pictures(files: FileImages, tiny: Callable[[], Backbone]) -> None:
    resize = tiny().resize
    arrays = ArrayImages(PIXELS, LABELS, "random")
    assert torch.equal(files.read([4, 1], resize).images, arrays.read([4, 1], resize).images)
    assert torch.equal(arrays.read([4], resize).images[0], torch.from_numpy(PIXELS[4]).permute(2, 0, 1))


def test_other_sizes_are_resized_as_open_clip_does(tiny: Callable[[], Backbone]) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    backbone = tiny()
    large = np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), dtype=np.uint8)
    ours = backbone.normalize(ArrayImages(large, np.zeros(2, np.int64), "large").read([0, 1], backbone.resize).images)
    theirs = image_transform_v2(PreprocessCfg(**backbone.model.visual.preprocess_cfg), is_train=False)
    torch.testing.assert_close(ours, torch.stack([theirs(Image.fromarray(picture)) for picture in large]))


def test_subsets_of_subsets_and_concatenations(tiny: Callable[[], Backbone]) -> None:
    resize = tiny().resize
    arrays = ArrayImages(PIXELS, LABELS, "random")
    both = ConcatSamples([arrays.subset([5, 4]), arrays.subset([0, 2, 1])])
    assert both.labels.tolist() == [2, 2, 0, 1, 0]
    chosen = both.subset([3, 0, 1, 4])
    assert chosen.labels.tolist() == [1, 2, 2, 0]
    assert torch.equal(chosen.read([0, 3, 1], resize).images, arrays.read([2, 1, 5], resize).images)


def test_fingerprints_tell_sets_apart(files: FileImages, tmp_path: Path) -> None:
    arrays = ArrayImages(PIXELS, LABELS, "random")
    prints = [
        arrays.fingerprint(),
        arrays.subset([0, 1]).fingerprint(),
        arrays.subset([1, 0]).fingerprint(),
        ArrayImages(PIXELS, LABELS, "other").fingerprint(),
        files.fingerprint(),
        files.subset([0, 1]).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    Image.fromarray(PIXELS[0, :16]).save(tmp_path / "0.png")
    assert files.fingerprint() != prints[4]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("RGBA", "png"), ("P", "png"), ("I;16", "png"), ("CMYK", "jpg"), ("1", "png"), ("LA", "png")],
)
def test_every_colour_mode_becomes_rgb(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a picture with spaces ä.{suffix}"
    if mode == "I;16":
        Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path)
    else:
        Image.new("RGB", (8, 8), (200, 30, 40)).convert(mode).save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (8, 8))


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (4, 8)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\nbroken"])
def test_a_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png cannot be read as a picture"):
        read_image(path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read"):
        read_image(path)
