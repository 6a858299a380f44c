"""What `read_image` makes of the pictures that people have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everclip.data.images import read_image
from everclip.errors import DataError


def pixel(path: Path) -> list[int]:
    value = read_image(path).getpixel((0, 0))
    assert isinstance(value, tuple)
    return [int(channel) for channel in value]


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        pytest.param("L", 90, "png", [90, 90, 90], id="grey"),
        pytest.param("RGBA", (200, 30, 40, 0), "png", [200, 30, 40], id="alpha-dropped-as-open_clip-does"),
        pytest.param("LA", (90, 10), "png", [90, 90, 90], id="grey-alpha"),
        pytest.param("CMYK", (255, 0, 0, 0), "tif", [0, 255, 255], id="cmyk"),
        pytest.param("1", 1, "png", [255, 255, 255], id="bilevel"),
    ],
)
def test_colour_modes(
    mode: str, colour: int | tuple[int, ...], suffix: str, expected: list[int], tmp_path: Path
) -> None:
    path = tmp_path / f"Ein Bild mit Lücken und 漢字.{suffix}"
    Image.new(mode, (4, 3), colour).save(path)
    assert pixel(path) == expected


def test_a_transparent_palette_keeps_its_colours(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 3), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    picture.save(tmp_path / "a.png", transparency=1)
    assert pixel(tmp_path / "a.png") == [10, 200, 30]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_cut_off(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.array([[0, 255, 256, 40000, 65535]], np.uint16)).save(path)
    assert np.asarray(read_image(path))[0].tolist() == [[v, v, v] for v in (0, 0, 1, 156, 255)]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (5, [[1, 4], [2, 5], [3, 6]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
    ],
)
def test_exif_orientation(orientation: int, expected: list[list[int]], tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert np.asarray(read_image(tmp_path / "a.png"))[..., 0].tolist() == expected


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may read everything; be nobody for a moment."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(DataError, match=r"folder\.jpg cannot be read as a picture"):
        read_image(tmp_path / "folder.jpg")
    path = tmp_path / "secret.png"
    Image.new("L", (2, 2)).save(path)
    path.chmod(0)
    with without_rights(), pytest.raises(DataError, match=r"secret\.png cannot be read as a picture: .*denied"):
        read_image(path)


def test_a_picture_of_absurd_size_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"bomb\.png cannot be read as a picture: .*decompression bomb"):
        read_image(tmp_path / "bomb.png")
