"""The embedded clips: drawn shapes that move, as real mp4 files in the layout of UCF101, written once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.ucf_layout import LISTS, read_layout
from everclip.data.drawing import clips as drawn
from everclip.data.drawing import shapes
from everclip.data.drawing.clips import MOTIONS, draw_clips
from everclip.data.images import Form
from everclip.data.video.writing import write_video
from everclip.digest import json_sha256
from everclip.errors import ConfigError
from everclip.storage import making
from everclip.types import Positive, Templates

TRAIN, TEST = 0, 1  # splits
VERSION = 1  # raise when the same arguments give other files
FPS, SCALE = 8, 2  # colours of a file have half its resolution
SHARED = 4  # clips of one group
LOOKS = ("red star", "blue circle", "green heart", "yellow cross")


def dataset(
    *,
    clips: Form,
    cache_dir: str,
    looks: Sequence[str] = LOOKS,
    motions: Sequence[str] = tuple(MOTIONS),
    train_per_class: Positive = 16,
    test_per_class: Positive = 8,
    length: Positive = 32,
    style: str = "cards",
    templates: Templates = ("a photo of a {}.",),
    seed: int = 0,
) -> LabelledImages:
    """Every look with every motion, a class each: what is seen tells looks apart, only what happens tells motions.

    Args:
        clips: how files become clips.
        cache_dir: where the files are written.
        looks: texture, colour and shape, see `everclip.data.drawing.clips.draw_clips`; `shape` alone is any.
        motions: keys of `everclip.data.drawing.clips.MOTIONS`.
        train_per_class: clips drawn per class.
        test_per_class: clips drawn per class.
        length: frames of a clip.
        style: rendering style, a key of `everclip.data.drawing.shapes.STYLES`.
        templates: of the prompts.
        seed: of the clips.

    Raises:
        ConfigError: an unknown motion, look or style.
        MissingError: PyAV is not installed.
    """
    names = [f"{look} {motion}" for look in looks for motion in motions]
    if not names or len(set(names)) < len(names) or not set(motions) <= set(MOTIONS) or style not in shapes.STYLES:
        raise ConfigError(
            f"sequence.dataset.looks={list(looks)}, motions={list(motions)}, style={style}: motions are of "
            f"{', '.join(MOTIONS)}, styles of {', '.join(shapes.STYLES)}, each once"
        )
    counts = (train_per_class, test_per_class)
    versions = [VERSION, drawn.VERSION, shapes.VERSION, FPS, SCALE, SHARED]
    key = json_sha256([versions, names, counts, length, repr(shapes.STYLES[style]), seed])
    folder = Path(cache_dir, "moving_shapes", key[:16])
    if not folder.is_dir():
        with making(folder) as aside:
            _write(aside, names, counts, length, style, seed)
    return read_layout(
        folder, "videos", "1", clips, name="moving_shapes", title="moving_shapes", templates=tuple(templates)
    )


def _write(folder: Path, names: Sequence[str], counts: tuple[int, int], length: int, style: str, seed: int) -> None:
    """Files and lists; as in UCF101, the first groups of a class are for testing."""
    lists: dict[int, list[str]] = {TRAIN: [], TEST: []}
    for label, name in enumerate(names, start=1):
        own = name.title().replace(" ", "")
        (folder / "videos" / own).mkdir(parents=True)
        group = 0
        for split in (TEST, TRAIN):
            count = counts[split]
            pixels = draw_clips(name, count, seed=seed, split=split, style=style, frames=length)
            for number, clip in enumerate(pixels):
                file = f"{own}/v_{own}_g{group + number // SHARED + 1:02d}_c{number % SHARED + 1:02d}.mp4"
                write_video(folder / "videos" / file, enlarged(clip), FPS)
                lists[split].append(f"{file} {label}" if split == TRAIN else file)
            group += -(-count // SHARED)
    (folder / LISTS).mkdir()
    numbered = [f"{label} {name.title().replace(' ', '')}" for label, name in enumerate(names, start=1)]
    for file, lines in {"classInd": numbered, "trainlist01": lists[TRAIN], "testlist01": lists[TEST]}.items():
        (folder / LISTS / f"{file}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def enlarged(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A clip (T, H, W, 3) whose pixels are squares of `SCALE`."""
    return clip.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
