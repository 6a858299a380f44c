"""The embedded clips: drawn shapes that move, as mp4 files in the layout of UCF101 or with captions, written once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everclip.data.captions import own
from everclip.data.captions.samples import CaptionedData
from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.ucf_layout import LISTS, read_layout
from everclip.data.drawing import clips as drawn
from everclip.data.drawing import shapes
from everclip.data.drawing.clips import MOTIONS, draw_clips
from everclip.data.images import Form
from everclip.data.sequences.grounding import domains as grounded
from everclip.data.sequences.grounding import read_folder
from everclip.data.sequences.retrieval import domains as one_each
from everclip.data.video.writing import OPTIONS, write_video
from everclip.digest import json_sha256
from everclip.errors import ConfigError
from everclip.storage import making
from everclip.types import Positive, TaskSequence, Templates

log = logging.getLogger("everclip")
TRAIN, TEST = 0, 1  # splits
VERSION = 1  # raise when the same arguments give other files
FPS, SCALE = 8, 2  # colours of a file have half its resolution
SHARED = 4  # clips of one group
SCENES, SHORTEST = 4, 8  # of a clip that has several, and frames of each
CAPTIONS = ("a video of a {}", "there is a {}", "in this clip one sees a {}")
Write = Callable[[Path, dict[str, int], int, str, int], None]
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
    if not names or len(set(names)) < len(names) or not set(motions) <= set(MOTIONS):
        raise ConfigError(
            f"sequence.dataset.looks={list(looks)}, motions={list(motions)}: motions are of {', '.join(MOTIONS)}, each "
            "once"
        )
    _check_style(style)
    counts = (train_per_class, test_per_class)
    versions = [VERSION, drawn.VERSION, shapes.VERSION, FPS, SCALE, SHARED, OPTIONS]
    key = json_sha256([versions, names, counts, length, repr(shapes.STYLES[style]), seed])
    folder = Path(cache_dir, "moving_shapes", key[:16])
    if not folder.is_dir():
        log.info("drawing %d clips once, into %s", sum(counts) * len(names), folder)
        with making(folder) as aside:
            _write(aside, names, counts, length, style, seed)
    return read_layout(
        folder, "videos", "1", clips, name="moving_shapes", title="moving_shapes", templates=tuple(templates)
    )


def captioned(
    *,
    clips: Form,
    cache_dir: str,
    style: str = "cards",
    train_clips: Positive = 200,
    test_clips: Positive = 100,
    length: Positive = 32,
    seed: int = 0,
) -> CaptionedData:
    """Moving shapes with three captions each; every clip comes beside the same one played backwards.

    What is seen in frames thus leaves two clips, whose mean frames are equal.

    Args:
        clips: how files become clips.
        cache_dir: where the files are written.
        style: rendering style, a key of `everclip.data.drawing.shapes.STYLES`; it names the data.
        train_clips: drawn for training, an even number.
        test_clips: drawn for testing, an even number.
        length: frames of a clip.
        seed: of the clips.

    Raises:
        ConfigError: an unknown style, an odd number, or more clips than captions could tell apart.
        MissingError: PyAV is not installed.
    """
    _check_style(style)
    counts = {"train": train_clips, "test": test_clips}
    most = len(shapes.all_class_names()[shapes.SEQUENCE_CLASSES]) * len(MOTIONS)
    if any(count % 2 or count > most for count in counts.values()):
        raise ConfigError(f"train_clips={train_clips}, test_clips={test_clips}: must be even, and at most {most}")
    folder = _written("moving_shapes_captioned", _write_captioned, cache_dir, counts, length, style, seed)
    return own.load(root=str(folder), clips=clips, name=style)


def retrieval(
    *,
    name: str,
    domains: Sequence[str],
    clips: Form,
    cache_dir: str,
    train_clips: Positive = 200,
    test_clips: Positive = 100,
    length: Positive = 32,
    seed: int = 0,
    stored: bool = False,
) -> TaskSequence:
    """Captioned clips, one session per rendering style; all domains evaluated after each.

    Args:
        name: of the sequence.
        domains: styles, see `captioned`, as of the next five; in order of their sessions.
        clips: how files become clips.
        cache_dir: where the files are written.
        train_clips: of a domain.
        test_clips: of a domain.
        length: frames of a clip.
        seed: of the clips.
        stored: see `everclip.evaluation.retrieval.Retrieval`.

    Raises:
        ConfigError: no domain, one twice, or see `captioned`.
        MissingError: PyAV is not installed.
    """
    of: dict[str, Any] = {"clips": clips, "cache_dir": cache_dir, "length": length, "seed": seed}
    of |= {"train_clips": train_clips, "test_clips": test_clips}
    return one_each(name=name, domains=[captioned(style=style, **of) for style in domains], stored=stored)


def grounding(
    *,
    name: str,
    domains: Sequence[str],
    clips: Form,
    cache_dir: str,
    train_clips: Positive = 200,
    test_clips: Positive = 100,
    length: Positive = 64,
    seed: int = 0,
) -> TaskSequence:
    """Clips of four scenes one after the other, a text for one of them; another shows the same played backwards.

    Args:
        name: of the sequence.
        domains: rendering styles, keys of `everclip.data.drawing.shapes.STYLES`, in order of their sessions.
        clips: how files become clips.
        cache_dir: where the files are written.
        train_clips: of a domain.
        test_clips: of a domain.
        length: frames of a clip.
        seed: of the clips.

    Raises:
        ConfigError: an unknown style, or clips too short for four scenes.
        MissingError: PyAV is not installed.
    """
    data = []
    if length < SCENES * SHORTEST:
        raise ConfigError(f"sequence.length={length}: must be at least {SCENES * SHORTEST}, for {SCENES} scenes")
    for style in domains:
        _check_style(style)
        counts = {"train": train_clips, "test": test_clips}
        folder = _written("moving_shapes_grounding", _write_grounded, cache_dir, counts, length, style, seed)
        data.append(read_folder(folder, clips, 1 / FPS, name=style))
    return grounded(name=name, domains=data)


def _written(
    kind: str, write: Write, cache_dir: str, counts: dict[str, int], length: int, style: str, seed: int
) -> Path:
    """The folder of what `write` makes of these settings, once."""
    versions = [VERSION, drawn.VERSION, shapes.VERSION, FPS, SCALE, CAPTIONS, SCENES, SHORTEST, OPTIONS]
    key = json_sha256([versions, counts, length, repr(shapes.STYLES[style]), seed])
    folder = Path(cache_dir, kind, key[:16])
    if not folder.is_dir():
        log.info("drawing %d clips once, into %s", sum(counts.values()), folder)
        with making(folder) as aside:
            write(aside, counts, length, style, seed)
    return folder


def _write_grounded(folder: Path, counts: dict[str, int], length: int, style: str, seed: int) -> None:
    """Files and lists: the scenes of a clip are as long as they are drawn."""
    looks, motions = shapes.all_class_names()[shapes.SEQUENCE_CLASSES], list(MOTIONS)
    (folder / "videos").mkdir()
    for split, (part, count) in zip((TRAIN, TEST), counts.items(), strict=True):
        lines = []
        for number in range(count):
            stream = np.random.Generator(np.random.PCG64([VERSION, seed, split, number, *style.encode()]))
            cuts = np.sort(stream.integers(length - SCENES * SHORTEST + 1, size=SCENES - 1))
            bounds = np.concatenate([[0], cuts + SHORTEST * np.arange(1, SCENES), [length]])
            order, asked = stream.permutation(SCENES), int(stream.integers(len(motions)))
            others = stream.choice(len(looks), size=SCENES - 1, replace=False)
            told = [f"{looks[others[0]]} {motions[asked]}", f"{looks[others[0]]} {motions[asked ^ 1]}"]
            told += [f"{looks[other]} {motions[int(stream.integers(len(motions)))]}" for other in others[1:]]
            scenes = [
                draw_clips(told[one], 1, seed=seed + number, split=split, style=style, frames=int(end - start))[0]
                for one, start, end in zip(order, bounds[:-1], bounds[1:], strict=True)
            ]
            file = f"{part}{number:04d}"
            write_video(folder / "videos" / f"{file}.mp4", enlarged(np.concatenate(scenes)), FPS)
            place = int(np.flatnonzero(order == 0)[0])
            window = [float(bounds[place]) / FPS, float(bounds[place + 1]) / FPS]
            text = CAPTIONS[0].format(told[0])
            own_line = {"qid": number, "query": text, "vid": file, "duration": length / FPS}
            lines.append(json.dumps(own_line | {"relevant_windows": [window]}))
        (folder / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_captioned(folder: Path, counts: dict[str, int], length: int, style: str, seed: int) -> None:
    """Files and a list of captions: looks in turn, each with a motion and its opposite."""
    looks, motions, lines = shapes.all_class_names()[shapes.SEQUENCE_CLASSES], list(MOTIONS), list[str]()
    (folder / "videos").mkdir()
    for split, (part, count) in zip((TRAIN, TEST), counts.items(), strict=True):
        for number in range(count):
            turn, look = divmod(number // 2, len(looks))
            pair = (look + turn) % (len(motions) // 2)
            name = f"{looks[look]} {motions[2 * pair + number % 2]}"
            (pixels,) = draw_clips(name, 1, seed=seed, split=split, style=style, frames=length)
            file = f"videos/{part}{number:04d}.mp4"
            write_video(folder / file, enlarged(pixels), FPS)
            own_captions = [caption.format(name) for caption in CAPTIONS]
            lines.append(json.dumps({"video": file, "captions": own_captions, "split": part}))
    (folder / "captions.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _check_style(style: str) -> None:
    if style not in shapes.STYLES:
        raise ConfigError(f"style={style}: must be one of {', '.join(shapes.STYLES)}")


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
