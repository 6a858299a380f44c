"""Lists of texts and their moments in clips, in the form of QVHighlights.

A line is an object with `qid`, `query` (the text), `vid` (the clip, without folder and ending), `duration` in seconds,
`relevant_windows` (starts and ends in seconds), and of what is judged `relevant_clip_ids` (numbers of parts of so many
seconds) with `saliency_scores` (of each, one number per annotator); without them, a part in a moment is very good.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everclip.data.captions.pair_list import check_views
from everclip.data.datasets.clip_lists import ClipFiles
from everclip.data.datasets.layouts import read_lines
from everclip.data.grounded import GroundedClips
from everclip.data.images import FileImages, Form
from everclip.errors import DataError
from everclip.objectives.grounding import VERY_GOOD
from everclip.types import NO_CLASS


def read_moments(source: Path, folder: Path, form: Form, unit: float) -> GroundedClips:
    """The texts of a list.

    Args:
        source: the list.
        folder: below which the clips are.
        form: how files become clips.
        unit: seconds of a judged part.

    Raises:
        ConfigError: see `check_views`; or the form makes no clips.
        MissingError: a clip is not there.
        DataError: the list has another form, names no moment of a text, or one that is outside of the clip.
    """
    clips = ClipFiles(folder, check_views(form))
    parts = form.num_frames or 1
    paths, texts, moments, judged = [], [], [], []
    for number, line in enumerate(read_lines(source), start=1):
        place = f"{source}, line {number}"
        try:
            content = json.loads(line)
            if not 0 < content["duration"] < np.inf:
                raise ValueError(f"duration={content['duration']}")
            windows = np.array(content["relevant_windows"], dtype=np.float64).reshape(-1, 2) / content["duration"]
            judged.append(_judged(content, windows, parts, unit))
            texts.append(str(content["query"]).strip())
            paths.append(clips.of(str(content["vid"]), place, source))
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            lacks = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{place} has not the form of QVHighlights: {lacks}") from error
        if not len(windows) or not texts[-1]:
            raise DataError(f"{place} has no {'text' if len(windows) else 'moment'}")
        if not (windows[:, 0] < windows[:, 1]).all() or windows.min() < 0 or windows.max() > 1 + 1e-6:
            raise DataError(f"{place}: moments must be parts of the {content['duration']} seconds of the clip")
        moments.append(windows)
    if not paths:
        raise DataError(f"{source} has no texts")
    annotators = max(own.shape[1] for own in judged)
    alike = [np.pad(own, ((0, 0), (0, annotators - own.shape[1])), mode="edge") for own in judged]
    files = FileImages(paths, np.full(len(paths), NO_CLASS, np.int64), folder, [source], form)
    return GroundedClips(files, texts, _padded(moments), np.stack(alike))


def _judged(content: Mapping[str, Any], windows: NDArray[np.float64], parts: int, unit: float) -> NDArray[np.int64]:
    """What is judged of each of so many equal parts of a clip (parts, A)."""
    middles = (np.arange(parts) + 0.5) / parts
    if "saliency_scores" not in content:
        within = ((windows[:, :1] <= middles) & (middles < windows[:, 1:])).any(axis=0)
        return np.where(within, VERY_GOOD, 0).astype(np.int64)[:, None]
    scores = np.array(content["saliency_scores"], dtype=np.int64).reshape(len(content["relevant_clip_ids"]), -1)
    whole = np.zeros((max(int(np.ceil(content["duration"] / unit)), 1), max(scores.shape[1], 1)), dtype=np.int64)
    if (ids := np.array(content["relevant_clip_ids"], dtype=np.int64)).min(initial=0) < 0:
        raise ValueError("a part before the first")
    whole[ids] = scores
    return whole[(middles * content["duration"] / unit).astype(np.int64).clip(max=len(whole) - 1)]


def _padded(moments: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    """All of them (N, M, 2), -1 where a text has fewer."""
    padded = np.full((len(moments), max(map(len, moments)), 2), -1, dtype=np.float32)
    for own, row in zip(moments, padded, strict=True):
        row[: len(own)] = own
    return padded
