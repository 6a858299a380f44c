"""Files that others have made, read with bounds: no pipe or device, and no more than fits."""

from __future__ import annotations

import stat
from pathlib import Path

from everclip.errors import DataError

LIMIT = 2**29  # bytes of a list


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


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a file that is small, as lists are.

    Raises:
        OSError: it cannot be read.
        DataError: it is no regular file, or a larger one.
    """
    if (size := check_regular(path)) > limit:
        raise DataError(f"{path} has {size >> 20} MB, where at most {limit >> 20} MB are expected")
    return path.read_bytes()
