"""Writing small videos with PyAV."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everclip.errors import MissingError

# a constant quantizer: x264's rate control may give other bytes when the same is written again
OPTIONS = {"qp": "18", "g": "8", "bf": "0", "preset": "veryfast"}


def write_video(
    path: Path,
    frames: NDArray[np.uint8],
    fps: int = 8,
    *,
    codec: str = "libx264",
    options: Mapping[str, str] = OPTIONS,
    times: NDArray[np.int64] | None = None,
) -> None:
    """Writes frames (T, H, W, 3) of even sides to a file, whose ending says the container; by default the same bytes.

    Args:
        path: of the file.
        frames: RGB.
        fps: frames per second.
        codec: of FFmpeg.
        options: of the codec.
        times: (T,) when each comes, in frames; None: one after the other.

    Raises:
        MissingError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingError("videos need a decoder: pip install 'everclip[video]'") from error
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps, options=dict(options))  # of video
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, fps)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, fps), int(number if times is None else times[number])
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
