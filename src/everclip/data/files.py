"""Files that others have made, read with bounds: no pipe or device, and no more than fits."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from everclip.errors import DataError

LIMIT = 2**29  # bytes of a list
UNZIPPED = 2**28  # bytes of an unzipped file
TAIL = 4096  # bytes: some programs write something of their own after a picture's end


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


def ends(path: Path) -> tuple[bytes, bytes]:
    """The first 8 bytes and the last `TAIL` of a file.

    Raises:
        OSError: it cannot be read.
        DataError: it is no regular file.
    """
    size = check_regular(path)
    with path.open("rb", buffering=0) as file:
        head = file.read(8)
        file.seek(max(size - TAIL, 0))
        return head, file.read(TAIL)


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


class Table:
    """A line of columns, then lines of as many cells; spaces around either are cut, lines without cells left out.

    Gives the number of each line and its cells by column.

    Args:
        path: of the file, for messages.
        text: in it.
        delimiter: between cells.

    Attributes:
        columns: in their order.

    Raises:
        DataError: it cannot be read, here or as lines are asked for, or a line has another number of cells.
    """

    def __init__(self, path: Path, text: str, delimiter: str = ",") -> None:
        self._path = path
        self._lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        self.columns = [column.strip() for column in next(self._read(), [])]

    def _read(self) -> Iterator[list[str]]:
        try:
            yield from self._lines
        except csv.Error as error:
            raise DataError(f"{self._path}, line {self._lines.line_num} cannot be read: {error}") from error

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        for cells in filter(any, self._read()):
            number = self._lines.line_num
            if len(cells) != len(self.columns):
                names = ",".join(self.columns)
                raise DataError(f"{self._path}, line {number}: {len(cells)} values for the columns {names}")
            yield number, dict(zip(self.columns, map(str.strip, cells), strict=True))


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
