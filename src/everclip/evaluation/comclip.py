"""ComCLIP: a picture is looked at again through the parts that a text speaks of.

The boxes of each entity of the text (all else black), and those of both ends of each relation, are encoded by the same
tower and added to the picture's feature, by how well they match their own words. Nothing is trained.

Source: arXiv 2211.13854, section 3 (eric-ai-lab/ComCLIP @ 75ef16e, `image_retrieval/comclip.py`, `helper_function.py`).
Differs: a weight is never negative (there, weights are similarities divided by their sum, whatever their signs), and
features have length 1, as in the code for Winoground (that for retrieval adds them as they come); texts are reordered
for pictures too. A region is meant by an entity if the last word of the entity's name is among those of its phrase;
there, a language model decides. A pair whose text has no parse, or that nothing is known of, keeps its plain score and
is counted; there, it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from typing_extensions import override

from everclip.errors import DataError
from everclip.evaluation.rescoring import Features, PairScorer
from everclip.types import NO_CLASS, Batch, Box, Draw, Indices, Model, Parse, Passes, Positive, Prepare, Region, Samples

Cut = frozenset[Box] | None  # what is left of a picture; None: all of it
CHUNK = 4096  # pairs whose parts are added up at a time


@dataclass(frozen=True)
class ComClip(PairScorer):
    """Similarity of a text with a picture and its parts.

    Attributes:
        top_k: answers of a query that are scored so.
    """

    top_k: Positive = 10

    @property
    @override
    def identity(self) -> str:
        return f"comclip{self.top_k}"

    @override
    def score(
        self, model: Model, samples: Samples, passes: Passes, features: Features, pairs: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        """Facts are the number of pairs, and how many had a text with a `parsed` entity, and a box `matched` by one."""
        described = samples.described
        if described is None:
            raise DataError(
                "comclip needs to know what is where in pictures and what texts speak of (Samples.described)"
            )
        texts = [text for own in samples.texts for text in own]
        cuts: dict[tuple[int, Cut], int] = {(picture, None): picture for picture in range(len(features.pictures))}
        words: dict[str, int] = {}
        found: list[tuple[int, int, int]] = []  # pair, cut, word
        parsed = matched = 0
        for pair, (picture, text) in enumerate(pairs.tolist()):
            parts = list(parts_of(described.parses.get(texts[text]), described.regions[picture]))
            found += [
                (pair, cuts.setdefault((picture, c), len(cuts)), words.setdefault(w, len(words))) for w, c in parts
            ]
            parsed += bool(parts)
            matched += any(cut for _, cut in parts)
        seen = features.pictures
        if new := list(cuts)[len(seen) :]:
            shown = CutPictures(samples.pictures, new)
            seen = torch.cat([seen, passes.samples(shown, lambda batch: model.encode_image(batch.images)).cpu()])
        meant = passes.texts(list(words), model.encode_text).cpu() if words else seen[:0]
        entries = torch.tensor(found, dtype=torch.long).view(-1, 3)
        scores = torch.empty(len(pairs), dtype=torch.double)
        for start in range(0, len(pairs), CHUNK):
            some = pairs[start : start + CHUNK]
            of_some = entries[(entries[:, 0] >= start) & (entries[:, 0] < start + CHUNK)]
            whole, parts_seen, asked = (
                rows.double() for rows in (seen[some[:, 0]], seen[of_some[:, 1]], meant[of_some[:, 2]])
            )
            mixed = with_parts(whole, parts_seen, asked, of_some[:, 0] - start)
            scores[start : start + CHUNK] = F.cosine_similarity(mixed, features.texts[some[:, 1]].double())
        return scores, {"comclip": {"pairs": len(pairs), "parsed": parsed, "matched": matched}}


def parts_of(parse: Parse | None, regions: Sequence[Region]) -> Iterator[tuple[str, Cut]]:
    """The words of each entity and relation of a text, and which part of a picture belongs to them.

    That of an entity that no region is of is the whole picture, and so is that of a relation of such an entity.
    """
    if parse is None:
        return
    cuts: dict[str | None, Cut] = {}
    for name, words in parse.entities.items():
        head = _words(name)[-1:]
        cuts[name] = frozenset(region.box for region in regions if set(head) & set(_words(region.phrase))) or None
        yield words, cuts[name]
    for relation in parse.relations:
        first, second = (cuts.get(end) for end in (relation.subject, relation.object))
        yield relation.verb, first | second if first and second else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def with_parts(whole: Tensor, parts: Tensor, words: Tensor, owner: Tensor) -> Tensor:
    """Features (M, E) of pictures with their parts added, by weights that sum to 1 wherever a part matches its words.

    Args:
        whole: (M, E) of the pictures.
        parts: (K, E) of parts of them.
        words: (K, E) of what each part is to show.
        owner: (K,) the picture (a row of `whole`) that a part belongs to.
    """
    weights = (parts * words).sum(dim=-1).clamp(min=0)
    total = weights.new_zeros(len(whole)).index_add(0, owner, weights)[owner]
    shares = torch.where(total > 0, weights / total, 0.0)
    return whole.index_add(0, owner, shares[:, None] * parts)


class CutPictures(Samples):
    """Parts of pictures, all else black.

    Args:
        source: the pictures.
        cuts: which picture, and what is left of it.
    """

    def __init__(self, source: Samples, cuts: Sequence[tuple[int, Cut]]) -> None:
        self._source, self._cuts = source, tuple(cuts)
        self.labels = np.full(len(cuts), NO_CLASS, dtype=np.int64)
        self.files = source.files

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        shown = [self._read(*self._cuts[index], prepare) for index in indices]
        return self.batch(torch.cat(shown), indices)

    def _read(self, picture: int, cut: Cut, prepare: Prepare) -> Tensor:
        return self._source.read([picture], lambda image: prepare(cut_out(image, cut))).images

    def subset(self, indices: Sequence[int] | Indices) -> CutPictures:
        return CutPictures(self._source, [self._cuts[index] for index in indices])

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def version(self) -> str:
        return self._source.version()


def cut_out(image: Image.Image, cut: Cut) -> Image.Image:
    """The picture with everything outside some boxes black."""
    if cut is None:
        return image
    black = Image.new("RGB", image.size)
    for left, top, right, bottom in cut:
        black.paste(image.crop((left, top, right + 1, bottom + 1)), (left, top))
    return black
