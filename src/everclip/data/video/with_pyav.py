"""Videos by PyAV, which brings FFmpeg with it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from everclip.data.video.reading import Index, Video
from everclip.errors import DataError

log = logging.getLogger("everclip")

# Containers that hold a video themselves: no playlist, which could name any file or address.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,ogg,flv,asf,nut,ivf"
PACKED = {"mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "vp8", "rv30", "rv40"}  # some packets hold no picture
LARGEST = 2**26  # pixels of a frame
SHORT = 0.9  # of the time that a file says it has

av.logging.set_level(av.logging.PANIC)  # what is wrong with a file is said in one line, by us


class AvVideo(Video):
    """The first stream of pictures in a container, decoded by one thread.

    Where the packets say when each frame comes, decoding starts at the nearest key frame, else at the beginning.

    Args:
        container: open.
        name: for messages.
        known: its index, if it is.

    Raises:
        DataError: there is no such stream.
    """

    def __init__(self, container: Any, name: str, known: Index | None) -> None:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise DataError(
                "it has no pictures, only " + (" and ".join({s.type for s in container.streams}) or "nothing")
            )
        self._container, self._stream, self._name = container, streams[0], name
        self._stream.codec_context.thread_count = 1
        self._started = False
        if self._stream.codec_context.width * self._stream.codec_context.height > LARGEST:
            raise DataError(f"frames of more than {LARGEST >> 20} million pixels")
        self.index = known or self._look()

    def _look(self) -> Index:
        """Counts the frames that are there: what a header says may be wrong or nothing."""
        packets = [p for p in self._packets() if p.size and not p.is_corrupt and not p.is_discard]
        stamps = [packet.pts for packet in packets]
        keys = [packet.pts for packet in packets if packet.is_keyframe]
        self._started = True
        told = None not in stamps and len(set(stamps)) == len(stamps) and keys
        if told and self._stream.codec_context.name not in PACKED:
            ordered = np.array(sorted(stamp for stamp in stamps if stamp >= keys[0]), np.int64)
            index = Index(self._seconds(ordered), ordered, np.array(sorted(keys), np.int64))
        else:
            found = [frame.pts for frame in self._decoded(None)]
            known = None not in found
            ordered = np.array(found if known else range(len(found)), np.int64)
            index = Index(self._seconds(ordered) if known else ordered / float(self._stream.average_rate or 1))
        self._tell_if_cut_off(index)
        return index

    def _tell_if_cut_off(self, index: Index) -> None:
        """Warns where a file says that it has more frames or, as Matroska, more seconds than are there."""
        count, said = len(index.times), self._stream.frames
        if said > count > 0:
            log.warning("%s: %d of %d frames are there; the file is cut off", self._name, count, said)
        elif not said and count > 1:
            start = max(float((self._stream.start_time or 0) * (self._stream.time_base or 0)), 0.0)
            shown, whole = start + float(index.times[-1] + index.times[1]), self._length()
            if shown < SHORT * whole:
                log.warning("%s: %.1f of %.1f s are there; the file may be cut off", self._name, shown, whole)

    def _length(self) -> float:
        """Seconds of the pictures as the file says; 0 where it does not, or only how long pictures or sound are."""
        told = re.fullmatch(r"(\d+):(\d+):([\d.]+)", self._stream.metadata.get("DURATION", ""))
        if told:
            hours, minutes, seconds = map(float, told.groups())
            return 3600 * hours + 60 * minutes + seconds
        alone = len(self._container.streams) == 1
        return float(self._container.duration or 0) / av.time_base if alone else 0.0

    def _seconds(self, stamps: Any) -> Any:
        return (stamps - stamps[:1]) * float(self._stream.time_base or 1)

    def _packets(self) -> Iterator[Any]:
        try:
            yield from self._container.demux(self._stream)
        except av.FFmpegError:  # what was there before is shown
            return

    def _decoded(self, stamp: int | None) -> Iterator[Any]:
        """The frames from a stamp of a key frame on, or all."""
        if self._started:
            first = self._stream.start_time or 0
            self._container.seek(min(first, 0) if stamp is None else stamp, stream=self._stream)
        self._started = True
        for packet in self._packets():
            try:
                yield from packet.decode()
            except av.FFmpegError:  # a damaged packet; whoever wants its frame is told
                continue

    def frames(self, wanted: Sequence[int]) -> Iterator[Image.Image]:
        yield from map(_upright, self._by_stamp(wanted) if len(self.index.stamps) else self._in_order(wanted))

    def _in_order(self, wanted: Sequence[int]) -> Iterator[Any]:
        left = iter(wanted)
        number = next(left, None)
        for place, frame in enumerate(self._decoded(None)):
            if place == number:
                yield frame
                number = next(left, None)
            if number is None:
                return
        raise self._missing(number)

    def _by_stamp(self, wanted: Sequence[int]) -> Iterator[Any]:
        keys, playing, at = self.index.keys, iter(()), None
        for number in wanted:
            stamp = int(self.index.stamps[number])
            key = int(keys[np.searchsorted(keys, stamp, side="right") - 1])
            if at is None or key > at:
                playing = self._decoded(key)
            found = _first(playing, stamp)
            if found is None or found.pts != stamp:  # a container that cannot be searched
                playing = self._decoded(None)
                found = _first(playing, stamp)
            if found is None or found.pts != stamp:
                raise self._missing(number)
            at = stamp
            yield found

    def _missing(self, number: int | None) -> DataError:
        return DataError(f"{self._name}: frame {number} of {len(self)} is damaged and cannot be decoded")


def _first(frames: Iterator[Any], stamp: int) -> Any:
    return next((frame for frame in frames if frame.pts is not None and frame.pts >= stamp), None)


def _upright(frame: Any) -> Image.Image:
    pixels = frame.to_ndarray(format="rgb24")
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))))


@contextmanager
def opened(path: Path, known: Index | None) -> Iterator[Video]:
    """See `open_video`."""
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    with av.open(f"file:{path}", metadata_errors="ignore", options=options) as container:
        yield AvVideo(container, str(path), known)
