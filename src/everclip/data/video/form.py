"""Files as clips: some frames of each, in training drawn anew every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from everclip.data.images import LONGEST, PICTURES, Form
from everclip.data.video.kept import Shelf
from everclip.data.video.reading import Backend, Video
from everclip.data.video.sampling import Sampling, Segment
from everclip.digest import json_sha256
from everclip.errors import DataError
from everclip.types import FRAMES, Draw, Positive, Prepare

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv", ".gif",
    ".webp",
)  # fmt: skip


@dataclass(frozen=True)
class Clips(Form):
    """A file, or a folder of frames, is a clip: (T, 3, S, S), for testing in several views (V, T, 3, S, S).

    All frames of a clip are cut and mirrored alike.

    Attributes:
        sampling: which frames.
        views: V over time for testing; probabilities are averaged over them.
        crops: for testing, of each view so many squares along the longer side, as views of their own.
        flip: whether `train.augment` may mirror; not where directions tell classes apart.
        shuffled: frames in any order, for each clip one of its own, in training drawn: what is told without motion.
        short_side: longer ones are shrunk to it; None: as they are.
        backend: see `open_video`.
        cache: `disk`: all frames that may be shown are kept decoded.
        cache_dir: where they, and where frames are in files, are kept; None: nowhere.
    """

    title = "clip"
    suffixes = SUFFIXES
    sampling: Sampling
    views: Positive = 1
    crops: Positive = 1
    flip: bool = True
    shuffled: bool = False
    short_side: Positive | None = None
    backend: Backend = "auto"
    cache: Literal["off", "disk"] = "off"
    cache_dir: str | None = None
    num_frames: int = field(init=False)
    drawn: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_frames", self.sampling.frames)
        object.__setattr__(self, "drawn", self.sampling.random or self.shuffled)

    @override
    def read(self, path: Path, prepare: Prepare, draw: Draw | None, position: int) -> Tensor:
        with self._open(path) as video:
            times = video.index.times
            if draw is None:
                stream = np.random.Generator(np.random.PCG64(crc32(path.name.encode())))
                numbers = np.stack([self.sampling.view(times, number, self.views) for number in range(self.views)])
            else:
                stream = draw.stream(position, FRAMES)
                numbers = self.sampling.draw(times, stream)[None]
            if self.shuffled:
                numbers = stream.permuted(numbers, axis=1)
            wanted, places = np.unique(numbers, return_inverse=True)
            frames = [_checked(self._shrunk(frame), path) for frame in video.frames(wanted.tolist())]
        crops = self.crops if draw is None else 1
        if draw is not None:
            prepare = (draw if self.flip else draw.unmirrored).showing(prepare, position)
        shown = torch.stack([torch.stack([prepare(cut) for cut in _cuts(frame, crops)]) for frame in frames])
        views = shown[torch.from_numpy(places.reshape(numbers.shape))].transpose(1, 2).flatten(0, 1)
        return views if len(views) > 1 else views[0]

    @override
    def damage(self, path: Path, deep: bool = False) -> str:
        if path.is_dir() and (files := _files(path)):
            return next(filter(None, (PICTURES.damage(file, deep) for file in files)), "")
        try:
            with self._shelf.video(path) as video:
                for _ in video.frames(range(len(video)) if deep else [0]):
                    pass
        except DataError as error:
            return str(error)
        return ""

    @override
    def accepts(self, path: Path) -> bool:
        if not path.is_dir():
            return super().accepts(path)
        return not path.name.startswith(".") and bool(_files(path))

    @override
    def files(self, paths: Sequence[Path]) -> Iterable[Path]:
        return (file for path in paths for file in _files(path))

    @override
    def stat(self, path: Path) -> tuple[int, int]:
        found = [file.stat() for file in _files(path)]
        return sum(each.st_size for each in found), max((each.st_mtime_ns for each in found), default=0)

    @override
    def facts(self) -> list[Any]:
        others = [name for name, holds in (("no flip", not self.flip), ("shuffled", self.shuffled)) if holds]
        return [repr(self.sampling), self.views, self.crops, self.short_side, *others]

    @property
    @override
    def trained(self) -> Form:
        return replace(self, views=1, crops=1)

    @property
    def _shelf(self) -> Shelf:
        return Shelf(None if self.cache_dir is None else Path(self.cache_dir, "videos"), self.backend)

    def _open(self, path: Path) -> AbstractContextManager[Video]:
        if self.cache == "off":
            return self._shelf.video(path)
        pool = [self.short_side, *([] if self.sampling.pools_all else [repr(self.sampling)])]
        return self._shelf.kept(path, self.sampling.pool, self._shrunk, json_sha256(pool)[:8])

    def _shrunk(self, frame: Image.Image) -> Image.Image:
        shorter = min(frame.size)
        if self.short_side is None or shorter <= self.short_side:
            return frame
        width, height = (round(side * self.short_side / shorter) for side in frame.size)
        return frame.resize((width, height), Image.Resampling.BICUBIC)


@cache
def _files(path: Path) -> tuple[Path, ...]:
    """The file itself, or the frames in a folder; none where that holds clips."""
    if not path.is_dir():
        return (path,)
    entries = list(path.iterdir())
    if any(entry.suffix.lower() in SUFFIXES and entry.suffix.lower() not in PICTURES.suffixes for entry in entries):
        return ()
    return tuple(sorted(entry for entry in entries if PICTURES.accepts(entry) and entry.suffix.lower() != ".gif"))


def _checked(frame: Image.Image, path: Path) -> Image.Image:
    """A frame, unless resizing its shorter side would take any memory."""
    if max(frame.size) > LONGEST * min(frame.size):
        raise DataError(f"{path}: {frame.width} x {frame.height} pixels, one side more than {LONGEST} times the other")
    return frame


def _cuts(frame: Image.Image, count: int) -> list[Image.Image]:
    """Squares evenly spaced along the longer side; the whole frame where there is one."""
    if count == 1:
        return [frame]
    side = min(frame.size)
    lefts, tops = (np.linspace(0, length - side, count).round().astype(int).tolist() for length in frame.size)
    return [frame.crop((left, top, left + side, top + side)) for left, top in zip(lefts, tops, strict=True)]


USUAL = Clips(Segment(8))  # where nothing else is said
