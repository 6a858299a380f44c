"""From a list of pairs to samples: divided, and in training with one, the first, or all captions of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from everclip.data.captions.pair_list import PARTS, Broken, Entry, PairList, collect
from everclip.data.pairs import CaptionedImages
from everclip.data.sequences.shots import choose_test

Caption = Literal["drawn", "first", "all"]


@dataclass(frozen=True)
class CaptionedData:
    """Pictures with captions, with their split.

    Attributes:
        name: of the data set.
        train: training pairs; may be none.
        test: test pairs.
        val: validation pairs where the split has them.
        notes: what is to be known of the lists.
    """

    name: str
    train: CaptionedImages
    test: CaptionedImages
    val: CaptionedImages | None = None
    notes: tuple[str, ...] = ()


def samples(pairs: PairList, entries: Sequence[Entry], most: int | None = None) -> CaptionedImages:
    """These pictures of a list with their captions, the first `most` of each."""
    texts = [entry.texts[:most] for entry in entries]
    return CaptionedImages(pairs.pictures([entry.picture for entry in entries]), texts)


def divided(entries: Sequence[Entry], share: float, seed: int) -> list[list[Entry]]:
    """Entries of each of `PARTS`: as the list says, or else a share of the pictures, drawn with `seed`, for testing."""
    if not entries[0].split:
        chosen = set(choose_test(np.zeros(len(entries), np.int64), share, seed).tolist())
        of = ["test" if position in chosen else "train" for position in range(len(entries))]
    else:
        of = [entry.split for entry in entries]
    return [[entry for entry, own in zip(entries, of, strict=True) if own == part] for part in PARTS]


def by_part(
    name: str, pairs: PairList, broken: Broken, test_captions: int | None = None, as_training: Sequence[str] = ()
) -> CaptionedData:
    """A published list as it divides itself; all is for testing where it does not.

    Args:
        name: of the data set.
        pairs: the list.
        broken: see `collect`.
        test_captions: of a picture for testing, the first ones; None: all.
        as_training: splits whose pictures are for training as well.
    """
    entries, notes = collect(pairs, broken, published=True)
    of = ["train" if entry.split in as_training else entry.split or "test" for entry in entries]
    train, val, test = (
        samples(pairs, [e for e, own in zip(entries, of, strict=True) if own == part], most)
        for part, most in zip(PARTS, (None, None, test_captions), strict=True)
    )
    return CaptionedData(name, train, test, val if len(val) else None, tuple(notes))


def shown(pairs: CaptionedImages, caption: Caption) -> CaptionedImages:
    """Training pairs of which one caption is `drawn` in every pass, the `first` is shown, or `all` are, one by one.

    With `all`, pairs of one picture may meet in a batch, where a contrastive loss takes each caption for a wrong one of
    the other.
    """
    if caption == "drawn":
        return pairs
    if caption == "first":
        return CaptionedImages(pairs.pictures, [own[:1] for own in pairs.texts])
    owners = [position for position, own in enumerate(pairs.texts) for _ in own]
    return CaptionedImages(pairs.pictures.subset(owners), [[text] for own in pairs.texts for text in own])
