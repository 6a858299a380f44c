"""Videos frame by frame, whatever they lie in: files that FFmpeg knows, animated pictures, folders of frames."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageSequence

from everclip.data.files import check_regular
from everclip.data.images import PICTURES, read_image, upright
from everclip.data.video.sampling import Times
from everclip.errors import DataError, EverclipError, MissingError
from everclip.types import Indices

Backend = Literal["auto", "pyav", "torchcodec"]
ANIMATED = {".gif": "GIF", ".webp": "WEBP"}
FOLDER_FPS = 1.0  # of a folder of frames, which does not say


@dataclass(frozen=True)
class Index:
    """Where the frames of a video are.

    Attributes:
        times: (N,) when each comes, in seconds from the first.
        stamps: (N,) their presentation times in the file's own unit; empty where only their order tells them.
        keys: of the frames that decoding may start from, sorted.
    """

    times: Times
    stamps: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    keys: Indices = field(default_factory=lambda: np.empty(0, np.int64))


class Video(ABC):
    """An open video.

    Attributes:
        index: of its frames.
    """

    index: Index

    @abstractmethod
    def frames(self, wanted: Sequence[int]) -> Iterator[Image.Image]:
        """The frames of these numbers, which rise, as RGB and upright.

        Raises:
            DataError: one cannot be decoded.
        """

    def __len__(self) -> int:
        return len(self.index.times)


class FrameFolder(Video):
    """Pictures in a folder, in the order of the numbers in their names.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self._files = sorted(filter(PICTURES.accepts, path.iterdir()), key=_natural)
        self.index = Index(np.arange(len(self._files)) / FOLDER_FPS)

    def frames(self, wanted: Sequence[int]) -> Iterator[Image.Image]:
        return (read_image(self._files[number]) for number in wanted)


class Animation(Video):
    """A GIF or WebP.

    Args:
        image: open.
        known: its index, if it is.
    """

    def __init__(self, image: Image.Image, known: Index | None) -> None:
        self._image = image
        self.index = known or self._look()

    def _look(self) -> Index:
        shown = [frame.info.get("duration", 100) / 1000 for frame in ImageSequence.Iterator(self._image)]
        return Index(np.cumsum([0.0, *shown[:-1]]))

    def frames(self, wanted: Sequence[int]) -> Iterator[Image.Image]:
        for number in wanted:
            self._image.seek(number)
            yield upright(self._image)


Open = Callable[[Path, Index | None], AbstractContextManager[Video]]


@contextmanager
def open_video(path: Path, backend: Backend = "auto", known: Index | None = None) -> Iterator[Video]:
    """A video, closed when the block ends.

    Args:
        path: of a file, or of a folder of frames.
        backend: what decodes files: PyAV; torchcodec, which needs FFmpeg's libraries; `auto`: the first that is
            installed. Animated pictures and folders need neither.
        known: its index, if it is known from before.

    Raises:
        MissingError: nothing that decodes is installed.
        DataError: it cannot be read, or has no frames; names it.
    """
    try:
        if path.is_dir():
            video: Video = FrameFolder(path)
            yield _some(video)
            return
        check_regular(path)
        if (kind := ANIMATED.get(path.suffix.lower())) is not None:
            with Image.open(path, formats=[kind]) as image:
                yield _some(Animation(image, known))
            return
        with decoder(backend)(path, known) as video:
            yield _some(video)
    except EverclipError as error:
        if isinstance(error, DataError) and str(path) not in str(error):
            raise DataError(f"{path} cannot be read as a video: {error}") from error
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be read as a video: {getattr(error, 'strerror', None) or error}") from error


def decoder(backend: Backend) -> Open:
    """What opens files of videos.

    Raises:
        MissingError: it is not installed.
    """
    if backend == "torchcodec" or (backend == "auto" and not find_spec("av") and find_spec("torchcodec")):
        try:
            from everclip.data.video.with_torchcodec import opened
        except (ImportError, RuntimeError, OSError) as error:  # without FFmpeg it raises a RuntimeError
            raise MissingError(
                "data.video.backend=torchcodec needs torchcodec and FFmpeg; pyav needs neither"
            ) from error
        return opened
    try:
        from everclip.data.video.with_pyav import opened as with_pyav
    except ImportError as error:
        raise MissingError("videos need a decoder: pip install 'everclip[video]'") from error
    return with_pyav


def _some(video: Video) -> Video:
    if not len(video):
        raise DataError("it has no frames")
    return video


def _natural(path: Path) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]
