"""Videos by torchcodec, with the FFmpeg of the system."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from torchcodec.decoders import VideoDecoder

from everclip.data.video.reading import Index, Video

CHUNK = 32  # frames in memory


class CodecVideo(Video):
    """Frames by number, exact: the file is looked through when it is opened.

    Args:
        path: of the file.
        known: its index, if it is.
    """

    def __init__(self, path: Path, known: Index | None) -> None:
        self._decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        self.index = known or self._look()

    def _look(self) -> Index:
        count = len(self._decoder)
        chunks = [list(range(start, min(start + CHUNK, count))) for start in range(0, count, CHUNK)]
        times = [self._decoder.get_frames_at(chunk).pts_seconds.numpy() for chunk in chunks]
        return Index(np.concatenate(times) - times[0][0] if times else np.empty(0))

    def frames(self, wanted: Sequence[int]) -> Iterator[Image.Image]:
        for start in range(0, len(wanted), CHUNK):
            numbers = [int(number) for number in wanted[start : start + CHUNK]]
            yield from map(Image.fromarray, self._decoder.get_frames_at(numbers).data.numpy())


@contextmanager
def opened(path: Path, known: Index | None) -> Iterator[Video]:
    """See `open_video`."""
    yield CodecVideo(path, known)
