"""WebDataset's tar files, written by its own library."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
from PIL import Image
from torchvision.transforms import PILToTensor

from everclip.data.captions import own
from everclip.data.captions.pair_list import collect
from everclip.data.captions.shards import ShardList
from everclip.errors import DataError

PREPARE = PILToTensor()


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (grey, grey, grey)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, pairs: dict[str, dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as sink:
        for key, parts in pairs.items():
            sink.write({"__key__": key, **parts})
    return path


def members(path: Path, *contents: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in contents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


# webdataset leaves the closing of its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_pairs_are_what_webdataset_reads(tmp_path: Path) -> None:
    pairs = {
        f"part/{n:03d}": {"png": png(n), "txt": f"caption {n}", "json": {"width": 4, "caption": "of the json"}}
        for n in range(5)
    }
    path = write(tmp_path / "train-000.tar", pairs)
    theirs: dict[str, Any] = {
        sample["__key__"]: sample for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    }
    entries, _ = collect(pairs_list := ShardList(tmp_path, [path]))
    assert [entry.texts for entry in entries] == [[theirs[key]["txt"].decode()] for key in pairs]
    assert {entry.split for entry in entries} == {"train"}
    images = pairs_list.pictures([entry.picture for entry in entries])
    read = images.read([3, 0], PREPARE).images
    shown = [PREPARE(Image.open(io.BytesIO(theirs[f"part/{n:03d}"]["png"]))) for n in (3, 0)]
    assert torch.equal(read, torch.stack(shown))
    assert torch.equal(images.subset([3, 0]).read([0, 1], PREPARE).images, read)
    assert images.files == (path,)


def test_captions_may_stand_in_json(tmp_path: Path) -> None:
    given = {"a": {"captions": ["x", " y "]}, "b": {"caption": "z"}, "c": {"text": "w"}}
    path = write(tmp_path / "0.tar", {key: {"png": png(1), "json": content} for key, content in given.items()})
    entries, _ = collect(ShardList(path, [path]))
    assert [entry.texts for entry in entries] == [["x", "y"], ["z"], ["w"]]


def test_a_folder_of_shards_is_divided_by_its_names(tmp_path: Path) -> None:
    for name, start in (("train/0.tar", 0), ("train/1.tar", 2), ("test/0.tar", 4)):
        write(tmp_path / name, {f"{n}": {"png": png(n), "txt": f"c{n}"} for n in (start, start + 1)})
    data = own.load(root=str(tmp_path))
    assert data.train.texts == (("c0",), ("c1",), ("c2",), ("c3",))
    assert data.test.texts == (("c4",), ("c5",))
    before = data.test.version(), data.test.fingerprint()
    write(tmp_path / "test/0.tar", {"4": {"png": png(9), "txt": "c4"}, "5": {"png": png(5), "txt": "c5"}})
    again = own.load(root=str(tmp_path)).test
    assert again.version() != before[0]
    assert again.read([0], PREPARE).images.unique().tolist() == [9]


BAD: dict[str, tuple[tuple[tuple[str, bytes], ...], str]] = {
    "no-caption": ((("a.png", png(1)), ("b.png", png(2)), ("b.txt", b"x")), r"pair 0: 0\.tar/a\.png has an empty"),
    "no-picture": ((("a.txt", b"x"),), r"0\.tar: 'a' has no picture"),
    "two-pictures": ((("a.png", png(1)), ("a.jpg", png(1))), r"'a\.jpg' is the second picture of its pair"),
    "a-name-twice": ((("a.png", png(1)), ("b.png", png(1)), ("a.png", png(1))), r"0\.tar holds 'a\.png' twice"),
    "no-text": ((("a.txt", b"\xff"), ("a.png", png(1))), r"'a\.txt' cannot be read"),
    "no-json": ((("a.json", b"{"), ("a.png", png(1))), r"'a\.json' cannot be read"),
    "other-json": ((("a.json", json.dumps([1]).encode()), ("a.png", png(1))), r"captions of 'a\.json' are no texts"),
}


@pytest.mark.parametrize("case", BAD)
def test_broken_pairs_are_named(case: str, tmp_path: Path) -> None:
    contents, said = BAD[case]
    path = members(tmp_path / "0.tar", *contents)
    with pytest.raises(DataError, match=said):
        collect(ShardList(path, [path]))


def test_what_is_no_part_of_a_pair_is_passed_over(tmp_path: Path) -> None:
    contents = (("._a.png", b"mac"), ("README", b"x"), ("a.png", png(1)), ("a.seg.png", png(2)), ("a.TXT", b"x"))
    path = members(tmp_path / "0.tar", *contents)
    ((entry,), _) = collect(ShardList(path, [path]))
    assert (entry.picture, entry.texts) == ("0.tar/a.png", ["x"])


def test_files_of_strangers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"holds 'a\.png', which is no plain file"):
        ShardList(path, [path])
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match=r"0\.tar cannot be read as an uncompressed tar file"):
        ShardList(path, [path])
    whole = members(path, ("a.png", png(1)), ("a.txt", b"x")).read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(DataError, match=r"0\.tar"):
        collect(ShardList(path, [path]))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="no regular file"):
        ShardList(path, [path])
