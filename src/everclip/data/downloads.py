"""Fetching published files: resumed where they stopped, checked before they are used, extracted inside their folder."""

from __future__ import annotations

import errno
import http.client
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from everclip.data.files import check_regular, file_md5
from everclip.errors import DataError, MissingError

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
CHUNK = 1 << 20
LARGEST, SMALL = 100, 2**28  # what an archive may unpack to: times its size, or bytes if that is more
ATTEMPTS = 3
Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0: unknown)


def fetch(url: str, target: Path, md5: str, progress: Progress, timeout: float = 60.0) -> None:
    """Downloads a file to `target`.

    What has arrived lies beside it as `<name>.part`; an interrupted download goes on from there.

    Args:
        url: of the file.
        target: where it shall lie; it appears there whole and checked, or not at all.
        md5: as published, empty where it is not.
        progress: told after every chunk.
        timeout: seconds without an answer after which an attempt ends.

    Raises:
        MissingError: the server cannot be reached, does not have it, or stops again and again.
        DataError: the checksum is wrong, or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with room_on_disk(target.parent):
                _append(url, part, progress, timeout)
            break
        except urllib.error.HTTPError as error:
            raise MissingError(f"{url} answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                have = part.stat().st_size if part.exists() else 0
                raise MissingError(
                    f"{url} stopped after {have} bytes ({error}); run the same command again to go on from there"
                ) from error
            time.sleep(0.1 * attempt)
    if md5 and (found := file_md5(part)) != md5:
        part.unlink()
        raise DataError(f"{url} has MD5 {found}, published is {md5}; the file was not kept")
    part.replace(target)


def _append(url: str, part: Path, progress: Progress, timeout: float) -> None:
    """Adds what is missing of a file.

    Raises:
        ConnectionError: fewer bytes came than were announced.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-", "User-Agent": "everclip-data"})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # nothing is missing; the checksum decides
        raise
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server sends everything
        length = answer.headers["Content-Length"]
        total = have + int(length) if length else 0
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(have, total)
    if have < total:
        raise ConnectionError(f"{have} of {total} bytes came")


def is_archive(name: str) -> bool:
    """Whether `extract` can read a file of this name."""
    return name.lower().endswith(ARCHIVES)


def extract(archive: Path, folder: Path) -> None:
    """Extracts an archive into a folder, or nothing of it: members appear once all are out.

    Only files and folders inside `folder` are written: absolute names, `..`, links and devices are refused, and so is
    an archive that unpacks to `LARGEST` times its size, which pictures never do.

    Raises:
        DataError: such a member, a damaged archive, or a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    room = max(SMALL, LARGEST * check_regular(archive))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".extracting-") as aside, room_on_disk(folder):
        try:
            for name, content in _members(archive):
                path = Path(aside, *PurePosixPath(name).parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    while chunk := content.read(CHUNK):
                        room -= len(chunk)
                        if room < 0:
                            raise DataError(f"{archive} unpacks to {LARGEST} times its size; nothing of it was kept")
                        file.write(chunk)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{archive} cannot be extracted: {error}") from error
        except OSError as error:
            if error.errno is None:  # zlib, gzip and zipfile raise bare ones
                raise DataError(f"{archive} cannot be extracted: {error}") from error
            raise
        _move(Path(aside), folder)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every file in an archive.

    Raises:
        DataError: a member is neither file nor folder, or would lie outside.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                is_link = (entry.external_attr >> 16) & 0o170000 == 0o120000
                if _is_file(archive, entry.filename, entry.is_dir(), not entry.is_dir() and not is_link):
                    with opened.open(entry) as content:
                        yield entry.filename, content
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if _is_file(archive, member.name, member.isdir(), stream is not None) and stream:
                yield member.name, stream


def _is_file(archive: Path, name: str, is_folder: bool, is_file: bool) -> bool:
    if not (is_folder or is_file):
        raise DataError(f"{archive} holds {name!r}, a link or device; it was not extracted")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise DataError(f"{archive} holds {name!r}, which would lie outside its folder; it was not extracted")
    return is_file


def _move(source: Path, folder: Path) -> None:
    """Moves what is in `source` to the same places in `folder`, whole trees where nothing is in the way."""
    for path in source.iterdir():
        target = folder / path.name
        if path.is_dir() and target.is_dir():
            _move(path, target)
        else:
            path.replace(target)


@contextmanager
def room_on_disk(folder: Path) -> Iterator[None]:
    """Turns a full disk into an error that says so.

    Raises:
        DataError: the disk or the quota is exhausted.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"the disk of {folder} is full; make room and run the same command again") from error
