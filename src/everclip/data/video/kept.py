"""What is known of videos from an earlier look: where their frames are and, if asked for, the frames themselves.

Each is known by what is in the file (its size, time and both ends), wherever it lies.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from everclip.data.files import ends
from everclip.data.video.reading import Backend, Index, Video, open_video
from everclip.digest import json_sha256
from everclip.errors import DataError
from everclip.storage import replacing, write_bytes
from everclip.types import Indices

FORMAT = 1  # to be raised when the same file gives another index or other frames than before


class KeptVideo(Video):
    """Frames of a video that were decoded before.

    Args:
        index: of all frames.
        pool: the numbers of those that are kept, sorted.
        pixels: (P, H, W, 3) uint8.
    """

    def __init__(self, index: Index, pool: Indices, pixels: Any) -> None:
        self.index, self._pool, self._pixels = index, pool, pixels

    def frames(self, wanted: Sequence[int]) -> Iterator[Image.Image]:
        for place in np.searchsorted(self._pool, wanted):
            yield Image.fromarray(np.asarray(self._pixels[place]))


class Shelf:
    """Where indices, and frames, are kept.

    Args:
        folder: None: nowhere.
        backend: see `open_video`.
    """

    def __init__(self, folder: Path | None, backend: Backend) -> None:
        self._folder, self._backend = folder, backend

    @contextmanager
    def video(self, path: Path) -> Iterator[Video]:
        """A video, open; its index is kept.

        Raises:
            DataError: see `open_video`.
            StorageError: the index cannot be kept.
        """
        place = self._place(path)
        known = None if place is None else _read_index(place)
        with open_video(path, self._backend, known) as video:
            if place is not None and known is None:
                _write_index(place, video.index)
            yield video

    @contextmanager
    def kept(self, path: Path, pool: Any, shrink: Any, name: str) -> Iterator[Video]:
        """As `video`, of frames that are decoded and shrunk once.

        Args:
            path: of the file.
            pool: gives the numbers of the frames that may be wanted, from the times of all.
            shrink: makes of a frame what is kept.
            name: tells pools and ways to shrink apart.

        Raises:
            DataError: see `open_video`; or frames of several sizes.
            StorageError: they cannot be kept.
        """
        place = self._place(path)
        if place is None:
            with self.video(path) as video:
                yield video
            return
        frames = place.with_name(f"{place.stem[:32]}-{name}.npy")
        index, pixels = _read_index(place), _read_frames(frames)
        if index is None or pixels is None:
            with self.video(path) as video:
                index, numbers = video.index, pool(video.index.times)
                _write_frames(frames, path, map(shrink, video.frames(numbers)), len(numbers))
            pixels = _read_frames(frames)
        yield KeptVideo(index, pool(index.times), pixels)

    def _place(self, path: Path) -> Path | None:
        """Where what is known of a video is kept."""
        if self._folder is None or path.is_dir():
            return None
        try:
            found = path.stat()
            facts = [
                FORMAT,
                self._backend == "torchcodec",
                found.st_size,
                found.st_mtime_ns,
                *(e.hex() for e in ends(path)),
            ]
        except OSError as error:
            raise DataError(f"{path} cannot be read as a video: {error.strerror}") from error
        key = json_sha256(facts)
        return self._folder / key[:2] / f"{key}.npz"


def _read_index(place: Path) -> Index | None:
    try:
        with np.load(place) as found:
            return Index(found["times"], found["stamps"], found["keys"])
    except (OSError, ValueError, EOFError, KeyError):  # none, or not whole
        return None


def _write_index(place: Path, index: Index) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, times=index.times, stamps=index.stamps, keys=index.keys)
    write_bytes(place, content.getvalue())


def _read_frames(place: Path) -> Any:
    try:
        return np.load(place, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None


def _write_frames(place: Path, path: Path, frames: Iterator[Image.Image], count: int) -> None:
    first = next(frames)
    shape = (count, first.height, first.width, 3)
    with replacing(place) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.write(np.asarray(first).tobytes())
        for frame in frames:
            if frame.size != first.size:
                raise DataError(f"{path}: frames of {first.size} and of {frame.size} pixels; use data.video.cache=off")
            file.write(np.asarray(frame).tobytes())
