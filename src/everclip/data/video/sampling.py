"""Which frames of a video are shown: drawn in training, always the same in evaluation.

Source: segments of TSN (arXiv 1608.00859) as in muzairkhattak/ViFi-CLIP @ e2d1948 (`SampleFrames`) and as in
Shahzadnit/EZ-CLIP @ 2f4d622 (`Action_DATASETS`); frames at a stride; frames at a rate as in LunarShen/TempMe @ e624930.
Differs: several views are evenly spaced, where ViFi-CLIP draws them; a short video is repeated, where TempMe adds black
frames, and ends with its last frame, where ViFi-CLIP begins it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from everclip.types import Indices, Positive

Times = NDArray[np.float64]


class Sampling(ABC):
    """A way to choose frames.

    Attributes:
        frames: T, that are shown.
        random: whether training draws them.
        pools_all: whether any frame may be shown.
    """

    frames: int
    random: ClassVar[bool] = True
    pools_all: ClassVar[bool] = True

    @abstractmethod
    def draw(self, times: Times, stream: np.random.Generator) -> Indices:
        """T numbers of frames, in order, as training sees them.

        Args:
            times: (N,) when each frame of the video comes, in seconds.
            stream: of random numbers.
        """

    @abstractmethod
    def view(self, times: Times, number: int, views: int) -> Indices:
        """T numbers of frames, in order, of one of several evenly spaced views; of the only one: the middle."""

    def pool(self, times: Times) -> Indices:
        """The frames that may ever be shown, sorted."""
        return np.arange(len(times))


@dataclass(frozen=True)
class Segment(Sampling):
    """One frame of each of T equal parts: a random one (of parts of whole frames), in evaluation the middle.

    Attributes:
        frames: T.
    """

    frames: Positive

    def draw(self, times: Times, stream: np.random.Generator) -> Indices:
        count, step = len(times), len(times) // self.frames
        if step == 0:
            return _rounded(np.arange(self.frames) * count / self.frames).clip(max=count - 1)
        return np.arange(self.frames) * step + stream.integers(step, size=self.frames)

    def view(self, times: Times, number: int, views: int) -> Indices:
        step = len(times) / self.frames
        return (np.arange(self.frames) * step + (2 * number + 1) * step / (2 * views)).astype(np.int64)


@dataclass(frozen=True)
class Even(Segment):
    """As `Segment`, the middle of each part in training too, so that frame i always stands for part i.

    Attributes:
        frames: T.
    """

    random = False

    def draw(self, times: Times, stream: np.random.Generator) -> Indices:
        return self.view(times, 0, 1)


@dataclass(frozen=True)
class Tsn(Sampling):
    """As `Segment`, with parts that cover every frame and the frame before the middle; a short video is shown whole.

    Attributes:
        frames: T.
    """

    frames: Positive

    def draw(self, times: Times, stream: np.random.Generator) -> Indices:
        count = len(times)
        if count <= self.frames:
            return np.sort(np.concatenate([np.arange(count), stream.integers(count, size=self.frames - count)]))
        starts = np.arange(self.frames + 1) * count // self.frames
        return starts[:-1] + stream.integers(np.diff(starts))

    def view(self, times: Times, number: int, views: int) -> Indices:
        count, parts = len(times), np.arange(self.frames)
        if count <= self.frames:
            return parts * count // self.frames
        step = count / self.frames
        return (parts * step + (step - 1) * (2 * number + 1) / (2 * views)).astype(np.int64)


@dataclass(frozen=True)
class Dense(Sampling):
    """T frames at a stride from a random start; views start evenly spaced, the only one so that it lies in the middle.

    A video that is too short for the stride is divided evenly.

    Attributes:
        frames: T.
        stride: frames from one to the next.
    """

    frames: Positive
    stride: Positive = 8

    def draw(self, times: Times, stream: np.random.Generator) -> Indices:
        return self._from(times, int(stream.integers(self._starts(times))))

    def view(self, times: Times, number: int, views: int) -> Indices:
        last = self._starts(times) - 1
        return self._from(times, last // 2 if views == 1 else round(last * number / (views - 1)))

    def _starts(self, times: Times) -> int:
        return max(1, len(times) - (self.frames - 1) * self.stride)

    def _from(self, times: Times, start: int) -> Indices:
        if (self.frames - 1) * self.stride >= len(times):
            return _rounded(np.linspace(0, len(times) - 1, self.frames))
        return start + np.arange(self.frames) * self.stride


@dataclass(frozen=True)
class Fps(Sampling):
    """The frames at full multiples of a time; of more than T, T that are evenly spaced with both ends.

    The same in training and evaluation.

    Attributes:
        frames: T.
        fps: frames per second.
    """

    random = False
    pools_all = False

    frames: Positive
    fps: Annotated[float, Field(gt=0)] = 1.0

    def draw(self, times: Times, stream: np.random.Generator) -> Indices:
        return self.view(times, 0, 1)

    def view(self, times: Times, number: int, views: int) -> Indices:
        pool = self.pool(times)
        return pool[np.linspace(0, len(pool) - 1, self.frames).astype(np.int64)]

    def pool(self, times: Times) -> Indices:
        wanted = np.arange(0, times[-1] - times[0] + 1e-6, 1 / self.fps) + times[0]
        return np.unique(np.searchsorted(times, wanted + 1e-6, side="right") - 1)


def _rounded(places: NDArray[np.float64]) -> Indices:
    return np.around(places).astype(np.int64)
