"""MSR-VTT: the publisher's split, those of JSFusion with 1,000 clips for testing, and CTVR's sessions of categories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from everclip.data.captions.clip_list import ClipList, rows_of
from everclip.data.captions.pair_list import PARTS, Broken, Row
from everclip.data.captions.samples import CaptionedData, by_part
from everclip.data.datasets import ctvr
from everclip.data.datasets.layouts import read_json
from everclip.data.datasets.spec import DataSpec, spec
from everclip.data.files import Table, read_bytes
from everclip.data.images import Form
from everclip.data.video.form import USUAL
from everclip.errors import DataError

Captions = Mapping[str, list[str]]


def load(
    *,
    root: str,
    split: Literal["1ka", "7k", "official", "ctvr10", "ctvr20"] = "1ka",
    broken: Broken = "refuse",
    clips: Form = USUAL,
) -> CaptionedData:
    """MSR-VTT below `root`: 20 captions of each clip for training.

    Args:
        root: of the data.
        split: `1ka`: 9,000 clips, and 1,000 with one caption each for testing (arXiv 1808.02559); `7k`: the same
            judged after training on 7,010; `official`: 6,513, 497 and 2,990 clips with all their captions; `ctvr10`,
            `ctvr20`: those of all `sessions` together.
        broken: see `collect`.
        clips: how files become clips.

    Raises:
        MissingError: a list is not there.
        DataError: a list has another form than its publisher's, or names clips that are not there.
    """
    known = spec("msrvtt")
    folder = known.require(Path(root), split)
    if split.startswith("ctvr"):
        return by_part("msrvtt", _in_sessions(known, folder, split, clips), broken)
    source = folder / "MSRVTT_data.json"
    content = read_json(source)
    captions = _captions(source, content)
    if split == "official":
        rows = _official(source, content, captions)
    else:
        train, test = (folder / name for name in known.splits[split].files[1:])
        rows = rows_of(captions, (line["video_id"] for line in _table(train, "video_id")), "train")
        rows += rows_of(*_single(test), "test", first=len(rows) + 1)
    return by_part("msrvtt", ClipList(source, rows, folder, clips), broken)


def sessions(
    *, root: str, count: Literal[10, 20] = 10, broken: Broken = "refuse", clips: Form = USUAL
) -> list[CaptionedData]:
    """The sessions of CTVR: 16 clips of each of 20 categories for training, two categories or one in a session.

    Source: arXiv 2503.10111, official code JasonCodeMaker/CTVR @ 72b7652 (data/MSRVTT_{10,20}_dataset.pkl,
    datasets/msrvtt_dataset.py).

    Args:
        root: of the data.
        count: of the sessions.
        broken: see `collect`.
        clips: how files become clips.

    Raises:
        MissingError: a list is not there.
        DataError: a list has another form than its publisher's, or names clips that are not there.
    """
    known = spec("msrvtt")
    return ctvr.sessions(_in_sessions(known, known.require(Path(root), f"ctvr{count}"), f"ctvr{count}", clips), broken)


def _in_sessions(known: DataSpec, folder: Path, split: str, clips: Form) -> ClipList:
    whole, lists, tested = (folder / name for name in known.splits[split].files)
    return ctvr.listed(lists, _captions(whole, read_json(whole)), _single(tested)[0], folder, clips)


def _captions(source: Path, content: Any) -> Captions:
    """All captions of each clip."""
    found: dict[str, list[str]] = {}
    try:
        for sentence in content["sentences"]:
            found.setdefault(sentence["video_id"], []).append(sentence["caption"].strip())
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source} has not the form of MSR-VTT: a sentence lacks {error}") from error
    return found


def _official(source: Path, content: Any, captions: Captions) -> list[Row]:
    """As every clip's `split` says."""
    try:
        of = {video["video_id"]: {"validate": "val"}.get(video["split"], video["split"]) for video in content["videos"]}
    except (KeyError, TypeError) as error:
        raise DataError(f"{source} has not the form of MSR-VTT: a video lacks {error}") from error
    rows: list[Row] = []
    for part in PARTS:
        rows += rows_of(captions, [clip for clip, own in of.items() if own == part], part, first=len(rows) + 1)
    return rows


def _single(path: Path) -> tuple[Captions, Iterable[str]]:
    """The caption that each clip is judged by, and the clips in order."""
    texts = {line["video_id"]: [line["sentence"]] for line in _table(path, "video_id", "sentence")}
    return texts, texts


def _table(path: Path, *columns: str) -> Sequence[dict[str, str]]:
    table = Table(path, read_bytes(path).decode("utf-8-sig", "replace").replace("\r\n", "\n"))
    if not set(columns) <= set(table.columns):
        raise DataError(f"{path}: the first line is {','.join(table.columns)!r}, but must have {','.join(columns)}")
    return [cells for _, cells in table]
