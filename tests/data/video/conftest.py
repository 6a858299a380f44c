from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everclip.data.video.writing import write_video

Frames = NDArray[np.uint8]
Write = Callable[..., Path]


def bars(count: int = 12, size: int = 32) -> Frames:
    """Frames that differ: the left part is as bright as the number of the frame says, the top is green."""
    frames = np.full((count, size, size, 3), 60, np.uint8)
    for number, frame in enumerate(frames):
        frame[:, : size // 2] = 20 + number * 200 // max(count, 2)
        frame[: size // 4] = (30, 180, 30)
    return frames


def numbers(frames: Frames, count: int = 12) -> list[int]:
    """Which of the `bars` frames (N, H, W, 3) are."""
    shown = frames[:, -4, 4].mean(axis=-1)
    return [round(float(value - 20) / 200 * max(count, 2)) for value in shown]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes `bars` to a file of a name; of keywords see `write_video`."""

    def _write(name: str, frames: Frames | None = None, **keywords: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, bars() if frames is None else frames, **keywords)
        return path

    return _write
