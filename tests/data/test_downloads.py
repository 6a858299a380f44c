from __future__ import annotations

import errno
import hashlib
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from everclip.data.downloads import extract, fetch, file_md5, room_on_disk
from everclip.errors import DataError, MissingError
from tests.data.server import Served, serve

CONTENT = np.random.default_rng(0).bytes(300_000)
TEXT = b"text" * 500
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def served() -> Iterator[Served]:
    with serve() as server:
        server.files["a.tar"] = CONTENT
        yield server


def get(served: Served, target: Path, md5: str = MD5, name: str = "a.tar") -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    fetch(f"{served.url}/{name}", target, md5, lambda *state: seen.append(state), timeout=5)
    return seen


def test_a_file_arrives_whole_and_checked(served: Served, tmp_path: Path) -> None:
    progress = get(served, tmp_path / "new" / "a.tar")
    assert (tmp_path / "new" / "a.tar").read_bytes() == CONTENT
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.tar"]


def test_an_interrupted_download_goes_on_where_it_stopped(served: Served, tmp_path: Path) -> None:
    served.stop_after = 50_000
    with pytest.raises(MissingError, match=r"a\.tar stopped after 150000 bytes .*run the same command again"):
        get(served, tmp_path / "a.tar")
    assert served.requests == ["bytes=0-", "bytes=50000-", "bytes=100000-"]
    assert not (tmp_path / "a.tar").exists()
    served.stop_after = None
    get(served, tmp_path / "a.tar")
    assert served.requests[3:] == ["bytes=150000-"]
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(served: Served, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(b"x" * 400_000)
    served.ranges = False
    get(served, tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_a_download_interrupted_before_its_check_is_only_checked(served: Served, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(CONTENT)
    assert get(served, tmp_path / "a.tar") == []
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_not_kept(served: Served, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has MD5 {MD5}, published is 0000; the file was not kept"):
        get(served, tmp_path / "a.tar", "0000")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_on_the_server(served: Served, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"b\.tar answers 404 Not Found"):
        get(served, tmp_path / "b.tar", name="b.tar")


def test_no_server(served: Served, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere\.tar stopped after 0 bytes \(.*[Rr]efused"):
        fetch("http://127.0.0.1:9/nowhere.tar", tmp_path / "n.tar", "", lambda *_: None, timeout=5)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(number: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"the disk of {tmp_path} is full; make room"), room_on_disk(tmp_path):
        raise OSError(number, "no space")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_stops_a_download_at_once(served: Served, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="is full; make room and run the same command again"):
        get(served, tmp_path / "a.tar")
    assert len(served.requests) == 1


def tar(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """A tar file with members (name, type of tarfile, target of links)."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = len(TEXT) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(TEXT))
    return path


def zipped(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """A zip file with members (name, type of tarfile, target of links)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, kind, target in members:
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = ((stat.S_IFLNK if kind == tarfile.SYMTYPE else stat.S_IFREG) | 0o644) << 16
            archive.writestr(entry, target or TEXT)
    return path


@pytest.mark.parametrize(("make", "name"), [(tar, "a.tar"), (tar, "a.tgz"), (zipped, "a.zip")])
def test_archives_are_extracted(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    file = tarfile.REGTYPE
    archive = make(tmp_path / name, ("images/ä b/1.txt", file, ""), ("images/2.txt", file, ""), ("./list", file, ""))
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/images/2.txt").write_text("older")
    (tmp_path / "data/images/own.txt").write_text("own")
    extract(archive, tmp_path / "data")
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    found = {str(path.relative_to(tmp_path / "data")): path.read_bytes() for path in files}
    assert found == {"images/ä b/1.txt": TEXT, "images/2.txt": TEXT, "list": TEXT, "images/own.txt": b"own"}
    assert not list((tmp_path / "data").glob(".*"))


OUTSIDE = [
    pytest.param("../out.txt", tarfile.REGTYPE, "", "would lie outside", id="parent"),
    pytest.param("a/../../out.txt", tarfile.REGTYPE, "", "would lie outside", id="inner-parent"),
    pytest.param("ROOT/out.txt", tarfile.REGTYPE, "", "would lie outside", id="absolute"),
    pytest.param("..\\out.txt", tarfile.REGTYPE, "", "would lie outside", id="backslash"),
    pytest.param("link", tarfile.SYMTYPE, "../..", "a link or device", id="symlink"),
]
ONLY_IN_TAR = [
    pytest.param("hard", tarfile.LNKTYPE, "/etc/hostname", "a link or device", id="hardlink"),
    pytest.param("fifo", tarfile.FIFOTYPE, "", "a link or device", id="fifo"),
]


@pytest.mark.parametrize(("name", "kind", "target", "message"), [*OUTSIDE, *ONLY_IN_TAR])
def test_tar_files_cannot_write_outside_their_folder(
    name: str, kind: bytes, target: str, message: str, tmp_path: Path
) -> None:
    check_refused(
        tar(tmp_path / "bad", ("first.txt", tarfile.REGTYPE, ""), (name.replace("ROOT", str(tmp_path)), kind, target)),
        message,
    )


@pytest.mark.parametrize(("name", "kind", "target", "message"), OUTSIDE)
def test_zip_files_cannot_write_outside_their_folder(
    name: str, kind: bytes, target: str, message: str, tmp_path: Path
) -> None:
    check_refused(
        zipped(
            tmp_path / "bad", ("first.txt", tarfile.REGTYPE, ""), (name.replace("ROOT", str(tmp_path)), kind, target)
        ),
        message,
    )


def check_refused(archive: Path, message: str) -> None:
    folder = archive.parent / "data"
    with pytest.raises(DataError, match=message):
        extract(archive, folder)
    assert sorted(archive.parent.rglob("*")) == [archive, folder]


@pytest.mark.parametrize(("make", "name"), [(tar, "a.tar"), (tar, "a.tgz"), (zipped, "a.zip")])
@pytest.mark.parametrize("share", [0.0, 0.33])
def test_a_damaged_archive_is_named_and_leaves_nothing(
    make: Callable[..., Path], name: str, share: float, tmp_path: Path
) -> None:
    archive = make(tmp_path / name, *((f"{i}.txt", tarfile.REGTYPE, "") for i in range(40)))
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    with pytest.raises(DataError, match=f"{name} cannot be extracted"):
        extract(archive, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_md5_is_the_usual_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"everclip")
    assert file_md5(tmp_path / "file") == hashlib.md5(b"everclip").hexdigest()
