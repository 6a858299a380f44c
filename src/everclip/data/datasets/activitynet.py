"""ActivityNet Captions: the first captioned moment of each clip, in CTVR's sessions of categories."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.captions.clip_list import ClipList
from everclip.data.captions.pair_list import Broken
from everclip.data.captions.samples import CaptionedData, by_part
from everclip.data.datasets import ctvr
from everclip.data.datasets.layouts import read_json
from everclip.data.datasets.spec import spec
from everclip.data.images import Form
from everclip.data.video.form import USUAL
from everclip.errors import DataError

FIRST = "_1"  # ends the name of a video's first captioned moment


def load(
    *, root: str, split: Literal["ctvr10", "ctvr20"] = "ctvr10", broken: Broken = "refuse", clips: Form = USUAL
) -> CaptionedData:
    """ActivityNet Captions below `root`, one caption of each clip.

    Args:
        root: of the data.
        split: all `sessions` together, in the order of 10 or 20.
        broken: see `collect`.
        clips: how files become clips.

    Raises:
        MissingError: a list is not there.
        DataError: a list has another form than its publisher's, or names clips that are not there.
    """
    return by_part("activitynet", _pairs(root, split, clips), broken)


def sessions(
    *, root: str, count: Literal[10, 20] = 10, broken: Broken = "refuse", clips: Form = USUAL
) -> list[CaptionedData]:
    """The sessions of CTVR: 16 clips of each of 200 categories for training, 20 categories or 10 in a session.

    Source: arXiv 2503.10111, official code JasonCodeMaker/CTVR @ 72b7652 (data/ACTNET_{10,20}_dataset.pkl,
    datasets/actnet_dataset.py).

    Args:
        root: of the data.
        count: of the sessions.
        broken: see `collect`.
        clips: how files become clips.

    Raises:
        MissingError: a list is not there.
        DataError: a list has another form than its publisher's, or names clips that are not there.
    """
    return ctvr.sessions(_pairs(root, f"ctvr{count}", clips), broken)


def _pairs(root: str, split: str, clips: Form) -> ClipList:
    known = spec("activitynet")
    folder = known.require(Path(root), split)
    lists, *sources = (folder / name for name in known.splits[split].files)
    train, test = map(_captions, sources)
    return ctvr.listed(lists, train, test, folder, clips, ending=FIRST)


def _captions(source: Path) -> ctvr.Captions:
    """The first caption of each video, by the name of its clip."""
    try:
        return {f"{video}{FIRST}": [said["sentences"][0].strip()] for video, said in read_json(source).items()}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{source} has not the form of ActivityNet Captions: a video lacks {error}") from error
