"""Files of strangers: refused in one line that names them, in bounded memory and time."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from scipy.io import loadmat, savemat

from everclip.config.trust import trusted
from everclip.data import class_texts, downloads, files, references
from everclip.data.datasets import matlab, mnist
from everclip.data.images import read_image, upright
from everclip.data.sequences.manifest import manifest
from everclip.data.sequences.own_pictures import read_names
from everclip.errors import ConfigError, DataError, EverclipError

Make = Callable[[Path], Any]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def thin(path: Path) -> None:
    Image.new("1", (2_000_000, 1)).save(path)


def nested(path: Path) -> None:
    path.write_text("[" * 200_000)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(pipe, "no regular file", id="pipe"),
        pytest.param(endless, "no regular file", id="device"),
        pytest.param(thin, "2000000 x 1 pixels, one side more than 100 times the other", id="thin"),
        pytest.param(lambda path: path.symlink_to("nowhere"), "No such file", id="broken-link"),
    ],
)
def test_what_is_no_picture_is_not_waited_for(make: Make, reason: str, tmp_path: Path) -> None:
    make(path := tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a\.png cannot be read as a picture: .*{reason}"):
        read_image(path)


def test_a_thin_picture_in_memory_is_refused_too() -> None:
    with pytest.raises(DataError, match="1 x 101 pixels"):
        upright(Image.new("RGB", (1, 101)))
    assert upright(Image.new("RGB", (1, 100))).size == (1, 100)


def test_no_program_is_started_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: started.append(arguments))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png cannot be read as a picture: cannot identify"):
        read_image(tmp_path / "a.png")
    assert started == []


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif", "ppm"])
def test_pictures_of_every_ending_are_read(suffix: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), (10, 200, 30)).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}").size == (8, 6)


READERS: dict[str, Make] = {
    "list.csv": lambda path: manifest(file=str(path)),
    "captions.csv": lambda path: references._read_texts(path, "caption"),
    "names.json": lambda path: read_names(str(path), ["a"]),
    "texts.json": lambda path: class_texts.file(path=str(path)),
}


@pytest.mark.parametrize("make", [pipe, endless])
@pytest.mark.parametrize("name", READERS)
def test_a_list_without_an_end_is_refused(name: str, make: Make, tmp_path: Path) -> None:
    make(path := tmp_path / name)
    with pytest.raises(EverclipError, match=name):
        READERS[name](path)


@pytest.mark.parametrize("name", ["names.json", "texts.json"])
def test_deep_json_is_refused(name: str, tmp_path: Path) -> None:
    nested(path := tmp_path / name)
    with pytest.raises(DataError, match=f"{name} is no JSON"):
        READERS[name](path)


@pytest.mark.parametrize("cell", [b"x" * 200_000, b"\xff\xfe"], ids=["long", "no-text"])
@pytest.mark.parametrize(("name", "columns"), [("list.csv", b"path,label"), ("captions.csv", b"path,caption")])
def test_a_table_that_cannot_be_read_is_named(name: str, columns: bytes, cell: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(columns + b"\na.png," + cell + b"\n")
    with pytest.raises(DataError, match=rf"{name}(, line 2)? cannot be read"):
        READERS[name](tmp_path / name)


def variables() -> dict[str, Any]:
    rows = np.zeros(3, dtype=[("fname", object), ("class", object)])
    for i in range(3):
        rows[i] = (f"ä{i}.jpg", i)
    numbers = {"u": np.array([[77, 1, 102]], np.uint8), "f": np.arange(6.0).reshape(2, 3), "s": np.array(3)}
    return {**numbers, "names": np.array(["a", "bcd"], dtype=object), "rows": rows}


def saved(compressed: bool) -> bytes:
    savemat(buffer := io.BytesIO(), variables(), do_compression=compressed)
    return buffer.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_are_read_as_scipy_reads_them(compressed: bool) -> None:
    content = saved(compressed)
    ours, theirs = matlab.read(content, list(variables())), loadmat(io.BytesIO(content), squeeze_me=True)
    for name in ("u", "f", "s"):
        np.testing.assert_array_equal(ours[name], theirs[name])
        assert ours[name].dtype == theirs[name].dtype if name != "s" else int(ours[name]) == theirs[name]
    assert ours["names"] == theirs["names"].tolist()
    assert [(row["fname"], row["class"]) for row in ours["rows"]] == [tuple(row) for row in theirs["rows"]]


def test_damaged_matlab_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """SciPy ends the process with a signal on one in sixty of such files."""
    dice = random.Random(0)
    for original in (saved(False), saved(True)):
        for _ in range(400):
            content = bytearray(original[: dice.choice([len(original), dice.randrange(len(original))])])
            for _ in range(dice.randint(1, 4)):
                at = dice.randrange(len(content))
                number = dice.choice([0, 1, 14, 15, 2**31 - 1, 2**32 - 1, dice.randrange(2**32)])
                content[at : at + 4] = number.to_bytes(4, "little")
            try:
                matlab.read(bytes(content), ["rows", "u"])
            except ValueError:
                continue
    monkeypatch.setattr(matlab, "LIMIT", 100)
    with pytest.raises(ValueError, match="takes more than"):
        matlab.read(saved(True), ["rows"])


def test_a_zipped_idx_file_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(5000)))
    monkeypatch.setattr(files, "UNZIPPED", 4000)
    with pytest.raises(DataError, match=r"a\.gz unzips to more than"):
        mnist._array(tmp_path / "a.gz")
    (tmp_path / "b").write_bytes(b"\0\0\x08\xff\0\0")
    with pytest.raises(DataError, match="b is cut off"):
        mnist._array(tmp_path / "b")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_an_archive_that_grows_without_end_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, zeros = tmp_path / name, bytes(1_000_000)
    if name == "a.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("in/a.txt", zeros)
    else:
        (tmp_path / "zeros").write_bytes(zeros)
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tmp_path / "zeros", "in/a.txt")
    downloads.extract(path, tmp_path / "small")  # is no matter
    monkeypatch.setattr(downloads, "SMALL", 1000)
    with pytest.raises(DataError, match=rf"{name} unpacks to 100 times its size; nothing of it was kept"):
        downloads.extract(path, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nmethod: {c: [*b, *b]}\n", "has aliases or is nested deeply"),
        ("method: " + "[" * 3000, "has aliases or is nested deeply"),
        ("method: {a: 1\n", "is no YAML"),
        ("# " + "x" * (1 << 22) + "\n", "has more than 4 MB"),
    ],
    ids=["aliases", "deep", "broken", "large"],
)
def test_a_configuration_that_grows_when_it_is_read_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"config\.yaml {reason}"):
        trusted(tmp_path / "config.yaml", ["method"])
