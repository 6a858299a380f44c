"""Topics of captions, and sessions of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from omegaconf import DictConfig

from everclip.backbones.texts import TextTower
from everclip.config import build, checks
from everclip.data.captions.samples import CaptionedData
from everclip.data.images import ArrayImages
from everclip.data.pairs import CaptionedImages
from everclip.data.sequences.topics import topic_retrieval
from everclip.data.topics import Vectors, Words, find_topics, names_of
from everclip.errors import ConfigError
from everclip.types import NO_CLASS, Indices

WHAT = ("a cat on a sofa", "two dogs in a park", "the train in its station")
HOW = ("seen today", "shown here", "in colour", "from afar", "at night")


def captions(count: int) -> tuple[list[str], Indices]:
    """So many captions of each of three topics, mixed, and which topic each is of."""
    of = np.arange(3 * count) % 3
    return [f"{WHAT[topic]} {HOW[number % len(HOW)]}" for number, topic in enumerate(of)], of


def alike(found: Indices, right: Indices) -> bool:
    """Whether two divisions are the same, whatever their parts are called: an adjusted Rand index of 1."""
    pairs = set(zip(found.tolist(), right.tolist(), strict=True))
    return len(pairs) == len(set(found.tolist())) == len(set(right.tolist()))


def test_known_topics_are_found_again() -> None:
    texts, right = captions(10)
    vectors = Words()(texts, len(texts))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    found = find_topics(vectors, 3, seed=0).of(vectors)
    assert alike(found, right)
    assert (find_topics(vectors, 3, seed=0).of(vectors) == found).all()
    merged = find_topics(vectors, 6, seed=0, merge=0.6)  # several topics of one become it again
    assert alike(merged.of(vectors), right)
    large = find_topics(vectors, 4, seed=0, fewest=6)  # one is divided in two, and too small a part falls to the other
    assert alike(large.of(vectors), right)
    assert (find_topics(vectors, 3, seed=0, nearest=0.999).of(vectors) == -1).any()
    with pytest.raises(ConfigError, match="there are only 15 different texts"):
        find_topics(vectors, 16, seed=0)


def test_names_are_words_of_the_topic() -> None:
    names = names_of([["a red cat", "the red cat"], ["a red dog", "the red dog"], ["a red dog"]])
    assert names[0].startswith("cat")
    assert len(set(names)) == 3


def data(count: int) -> CaptionedData:
    def part(number: int) -> CaptionedImages:
        texts, _ = captions(number)
        pixels = np.zeros((len(texts), 4, 4, 3), np.uint8)
        return CaptionedImages(ArrayImages(pixels, np.full(len(texts), NO_CLASS), str(number)), [[t] for t in texts])

    return CaptionedData("told", part(count), part(2))


def test_every_pair_is_in_one_session() -> None:
    sequence = topic_retrieval(dataset=data(10), encoder=Words(), topics=3, min_items=5)
    assert sequence.name == "topic_retrieval_told"
    assert [(len(s.train), len(t.samples)) for s, t in zip(sequence.sessions, sequence.tasks, strict=True)] == [
        (10, 2)
    ] * 3
    for session, task in zip(sequence.sessions, sequence.tasks, strict=True):
        (topic,) = {
            next(what for what in WHAT if own[0].startswith(what))
            for own in (*session.train.texts, *task.samples.texts)
        }
        assert session.name.split("_")[0] in topic
    with pytest.raises(ConfigError, match=r"sequence\.min_items=31: no topic has so many; the largest has"):
        topic_retrieval(dataset=data(10), encoder=Words(), topics=3, min_items=31)


def test_every_caption_is_read_once() -> None:
    read: list[str] = []

    def encoder(texts: Sequence[str], known: int) -> Vectors:
        read.extend(texts)
        return Words()(texts, known)

    given = data(10)
    topic_retrieval(dataset=given, encoder=encoder, topics=3, min_items=5)
    assert read == [text for part in (given.train, given.test) for own in part.texts for text in own]


def test_topics_by_a_text_tower(compose: Callable[..., DictConfig]) -> None:
    node = compose("sequence=topic_retrieval", "sequence/encoder=clip").sequence.encoder
    checks.check_group("sequence.encoder", node)
    encoder = build.build("sequence.encoder", node)
    assert isinstance(encoder, TextTower)
    features = encoder(["a red star", "a blue circle", "a red star"], 0)
    assert features.shape == (3, 96)
    assert features[0] == pytest.approx(features[2])
    assert np.linalg.norm(features, axis=1) == pytest.approx(1, abs=1e-5)
