"""Files that others have made, read with bounds: no pipe or device, and no more than fits."""

from __future__ import annotations

import gzip
import hashlib
import stat
import zlib
from pathlib import Path

from everclip.errors import DataError

LIMIT = 2**29  # bytes of a list
UNZIPPED = 2**28  # bytes of an unzipped file


def check_regular(path: Path) -> int:
    """The size of a file in bytes.

    Raises:
        OSError: it is not there.
        DataError: it is a folder, a pipe or a device, which may have no end.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} is no regular file")
    return found.st_size


def read_bytes(path: Path) -> bytes:
    """The content of a file that is small, as lists are.

    Raises:
        OSError: it cannot be read.
        DataError: it is no regular file, or a larger one.
    """
    if (size := check_regular(path)) > LIMIT:
        raise DataError(f"{path} has {size >> 20} MB, where at most {LIMIT >> 20} MB are expected")
    return path.read_bytes()


def unzipped(path: Path) -> bytes:
    """The content of a gzipped file.

    Raises:
        DataError: it cannot be unzipped, or would be too large.
    """
    try:
        check_regular(path)
        with gzip.open(path) as file:
            content = file.read(UNZIPPED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unzipped: {error}") from error
    if len(content) > UNZIPPED:
        raise DataError(f"{path} unzips to more than {UNZIPPED >> 20} MB")
    return content


def file_md5(path: Path) -> str:
    """MD5 of a file, in hex: what the publishers of data sets give."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def content_md5(path: Path) -> str:
    """MD5 of what is in a file, in hex: the same whether it is gzipped or not, and however well.

    Raises:
        DataError: it cannot be read.
    """
    if path.suffix == ".gz":
        return _md5(unzipped(path)).hexdigest()
    try:
        check_regular(path)
        return file_md5(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _md5(content: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(content, usedforsecurity=False)
