"""Topic-incremental retrieval: the captions of any data set divided into topics, each a session.

Source of the recipe: arXiv 2503.01739, see `everclip.data.topics`; as sessions: of this project.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from everclip.data.captions.samples import Caption, CaptionedData
from everclip.data.pairs import CaptionedImages
from everclip.data.sequences.retrieval import domains
from everclip.data.topics import Encoder, Vectors, find_topics, names_of, unit
from everclip.errors import ConfigError
from everclip.types import Indices, Positive, TaskSequence

Cosine = Annotated[float, Field(ge=-1, le=1)]


def topic_retrieval(
    *,
    dataset: CaptionedData,
    encoder: Encoder,
    topics: Positive = 6,
    merge: Cosine = 0.95,
    min_items: Positive = 20,
    min_similarity: Cosine = -1.0,
    caption: Caption = "drawn",
    name: str | None = None,
    seed: int = 0,
) -> TaskSequence:
    """One session per topic of the training captions, the largest first; test pairs belong to the nearest topic.

    Args:
        dataset: with its split.
        encoder: of captions, see `everclip.data.topics.Encoder`; a picture's is the mean of its captions.
        topics: how many to look for.
        merge: topics that are more alike (cosine of their centres) become one.
        min_items: topics with fewer training pictures are left out; the pictures fall to others.
        min_similarity: pictures whose captions are less like their topic (cosine) are left out.
        caption: see `everclip.data.captions.samples.shown`.
        name: of the sequence; None: after the data set.
        seed: of the topics.

    Raises:
        ConfigError: fewer different captions than topics, or no topic is large enough.
        DataError: a topic without test pairs.
    """
    vectors = _vectors(encoder, dataset.train, dataset.test)
    found = find_topics(vectors[0], topics, seed, merge=merge, fewest=min_items, nearest=min_similarity)
    train, test = (found.of(own) for own in vectors)
    judged = [topic for topic in range(len(found.centres)) if (test == topic).any() and (train == topic).any()]
    if not judged:
        raise ConfigError("sequence.min_similarity leaves no topic with training and test pairs")
    parts = [[own.subset(np.flatnonzero(of == topic)) for own, of in ((dataset.train, train), (dataset.test, test))]
             for topic in judged]  # fmt: skip
    titles = names_of([[text for own in part.texts for text in own] for part, _ in parts])
    data = [CaptionedData(title, own, tested) for title, (own, tested) in zip(titles, parts, strict=True)]
    return domains(name=name or f"topic_retrieval_{dataset.name}", domains=data, caption=caption)


def _vectors(encoder: Encoder, train: CaptionedImages, test: CaptionedImages) -> tuple[Vectors, Vectors]:
    """One vector (N, D) of length 1 for each picture, of training and test: the mean of its captions'."""
    captions = [*train.texts, *test.texts]
    texts = [text for own in captions for text in own]
    rows = encoder(texts, sum(map(len, train.texts)))
    owner: Indices = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    sums = np.zeros((len(captions), rows.shape[1]), dtype=np.float32)
    np.add.at(sums, owner, rows)
    vectors = unit(sums)
    return vectors[: len(train)], vectors[len(train) :]
