"""What captions speak of: groups of alike ones, found without labels.

Source of the recipe: arXiv 2503.01739 (texts embedded, k-means, duplicates among the groups merged, small ones left
out, members checked against their topic). Differs: groups are named by their words, where the paper asks a language
model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everclip.errors import ConfigError
from everclip.types import Indices

Vectors = NDArray[np.float32]
Encoder = Callable[[Sequence[str], int], Vectors]  # of texts, of which the first so many may be learnt from
RESTARTS, ITERATIONS = 10, 100
NAMED_BY, LETTERS = 3, 3  # words, and the fewest letters of each


class Words:
    """Texts as counts of their words, each weighed by how few texts have it (TF-IDF, as scikit-learn smooths it)."""

    def __call__(self, texts: Sequence[str], known: int) -> Vectors:
        counts = [Counter(_words(text)) for text in texts]
        held = Counter(word for own in counts[:known] for word in own)
        number = {word: place for place, word in enumerate(sorted(held))}
        weights = {word: np.log((1 + known) / (1 + found)) + 1 for word, found in held.items()}
        vectors = np.zeros((len(texts), max(len(number), 1)), dtype=np.float32)
        for row, own in zip(vectors, counts, strict=True):
            for word, count in own.items():
                if word in number:
                    row[number[word]] = count * weights[word]
        return unit(vectors)


@dataclass(frozen=True)
class Topics:
    """Groups of texts.

    Attributes:
        centres: (K, D) of length 1.
        nearest: the smallest cosine that a member has with its centre.
    """

    centres: Vectors
    nearest: float = -1.0

    def of(self, vectors: Vectors) -> Indices:
        """The topic (N,) of each vector (N, D); -1 where it is too far from all."""
        cosines = vectors @ self.centres.T
        found: Indices = np.where(cosines.max(axis=1) >= self.nearest, cosines.argmax(axis=1), -1)
        return found


def unit(vectors: Vectors) -> Vectors:
    """The vectors with length 1, those of no length as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    divided: Vectors = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return divided


def find_topics(
    vectors: Vectors, count: int, seed: int, *, merge: float = 1.0, fewest: int = 1, nearest: float = -1.0
) -> Topics:
    """Topics by spherical k-means, the best of several starts, the largest first.

    Args:
        vectors: (N, D) of length 1.
        count: of the topics at first.
        seed: of the starts.
        merge: topics whose centres have a larger cosine become one.
        fewest: topics of fewer vectors are left out, their members fall to others.
        nearest: see `Topics`.

    Raises:
        ConfigError: more topics than different vectors, or none is left.
    """
    if count > (different := len(np.unique(vectors, axis=0))):
        raise ConfigError(f"sequence.topics={count}: there are only {different} different texts")
    stream = np.random.Generator(np.random.PCG64(seed))
    _, centres = max((_k_means(vectors, count, stream) for _ in range(RESTARTS)), key=lambda found: found[0])
    sizes = np.bincount((vectors @ centres.T).argmax(axis=1), minlength=count)
    while True:
        cosines = np.triu(centres @ centres.T, k=1)
        one, other = np.unravel_index(cosines.argmax(), cosines.shape)
        if len(centres) > 1 and cosines[one, other] > merge:
            joined = unit(sizes[[one, other]].astype(np.float32)[None] @ centres[[one, other]])
            left = np.setdiff1d(np.arange(len(centres)), [one, other])
            centres = np.concatenate([centres[left], joined])
        elif len(centres) > 1 and sizes.min() < fewest:
            centres = np.delete(centres, sizes.argmin(), axis=0)
        else:
            break
        sizes = np.bincount((vectors @ centres.T).argmax(axis=1), minlength=len(centres))
    if sizes.max() < fewest:
        raise ConfigError(f"sequence.min_items={fewest}: no topic has so many; the largest has {sizes.max()}")
    return Topics(centres[np.argsort(-sizes, kind="stable")], nearest)


def _k_means(vectors: Vectors, count: int, stream: np.random.Generator) -> tuple[float, Vectors]:
    """The sum of the cosines of all vectors with their centres, and the centres, begun as k-means++ does."""
    chosen = [int(stream.integers(len(vectors)))]
    for _ in range(count - 1):
        far = np.maximum(1 - (vectors @ vectors[chosen].T).max(axis=1), 0).astype(np.float64)
        chosen.append(int(stream.choice(len(vectors), p=far / far.sum())) if far.sum() > 0 else chosen[-1])
    centres, own = vectors[chosen], np.full(len(vectors), -1)
    for _ in range(ITERATIONS):
        cosines = vectors @ centres.T
        before, own = own, cosines.argmax(axis=1)
        if (own == before).all():
            break
        sums = np.zeros_like(centres)
        np.add.at(sums, own, vectors)
        centres = np.where(np.linalg.norm(sums, axis=1, keepdims=True) > 0, unit(sums), centres)
    return float((vectors @ centres.T).max(axis=1).sum()), centres


def names_of(texts: Sequence[Sequence[str]]) -> list[str]:
    """A name for each group of texts: words that it has far more often than all have, unlike every other name."""
    counts = [Counter(word for text in own for word in _words(text)) for own in texts]
    whole, total = sum(counts, Counter[str]()), sum(map(len, texts))
    names: list[str] = []
    for own, group in zip(counts, texts, strict=True):
        shares = {word: (found / max(len(group), 1)) * np.log(found * total / (len(group) * whole[word]) + 1e-9)
                  for word, found in own.items() if len(word) >= LETTERS}  # fmt: skip
        best = sorted(sorted(shares), key=lambda word: -shares[word])[:NAMED_BY]
        name = "_".join(best) or "topic"
        names.append(name if name not in names else f"{name}_{len(names)}")
    return names


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
