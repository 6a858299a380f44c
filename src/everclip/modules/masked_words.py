"""Masked words of texts, to be guessed from the words around them and from what a clip shows.

Legend: N texts, L tokens, D width of the text tower, T frames, W words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.backbones.blocks import attend_across, run_block
from everclip.losses.similarity import similarity
from everclip.modules.class_rows import ClassRows
from everclip.modules.ted_adapters import Adapters
from everclip.types import ClassSet

MASK = "mask"  # a word of one token
NOTHING = -100  # target of a token that is not to be guessed

Tokenize = Callable[[Sequence[str]], Tensor]


class MaskedWords(nn.Module):
    """Words and what guesses them: one more block that asks the frames, and a layer with one row per word.

    The block computes with the weights of the tower's last one, and with adapters of its own.

    Args:
        width: D.
        adapters: of the block, as if it had number 0.
    """

    def __init__(self, width: int, adapters: Adapters) -> None:
        super().__init__()
        self.adapters = adapters
        self.transform, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        nn.init.normal_(self.transform.weight, std=0.02)
        nn.init.zeros_(self.transform.bias)
        self.rows = ClassRows(width + 1, trainable=True)  # a word for a class, its bias last
        self._known: dict[str, int] = {}
        self._lengths: dict[str, int] = {}

    def learn(self, texts: Sequence[str]) -> None:
        """Takes in the words of texts; those known before come first among them, in the same order."""
        words = list(dict.fromkeys(word for text in texts for word in split(text) if is_word(word)))
        self._known = {word: number for number, word in enumerate(words)}
        held = len(self.rows.ids)
        rows = F.pad(torch.empty(len(words) - held, self.rows.rows.shape[1] - 1).normal_(std=0.02), (0, 1))
        self.rows.append(ClassSet(tuple(range(held, len(words))), tuple(words[held:])), rows)

    def mask(
        self,
        texts: Sequence[str],
        streams: Sequence[np.random.Generator],
        share: float,
        rate: float,
        tokenize: Tokenize,
    ) -> tuple[Tensor, Tensor]:
        """Tokens (N, L) of texts, some of whose words are exchanged for "mask", and the words that were there (N, L).

        Args:
            texts: of known words.
            streams: random numbers of each text.
            share: probability of a text to be changed.
            rate: of its words, at least one, that are masked.
            tokenize: as the backbone does.
        """
        changed, places = list(texts), [dict[int, int]() for _ in texts]
        for row, (text, stream) in enumerate(zip(texts, streams, strict=True)):
            if stream.random() >= share:
                continue
            words = split(text)
            candidates = [position for position, word in enumerate(words) if is_word(word)]
            count = max(1, round(rate * len(candidates)))
            for position in stream.permutation(candidates)[:count].tolist():
                places[row][position], words[position] = self._known[words[position]], MASK
            changed[row] = " ".join(words)
            starts = np.cumsum([1, *(self._length(word, tokenize) for word in words)])
            places[row] = {int(starts[position]): word for position, word in places[row].items()}
        tokens = tokenize(changed)
        targets = torch.full_like(tokens, NOTHING)
        for row, found in enumerate(places):
            for token, word in found.items():
                if token < tokens.shape[1] - 1:  # not cut off
                    targets[row, token] = word
        return tokens, targets

    def _length(self, word: str, tokenize: Tokenize) -> int:
        """Number of its tokens."""
        if word not in self._lengths:
            self._lengths[word] = int(tokenize([word])[0].argmax()) - 1  # between start and end of text
        return self._lengths[word]

    def forward(self, block: Any, final: nn.Module, stream: Tensor, frames: Tensor) -> Tensor:
        """Logits (N, L, W) of words.

        Args:
            block: the text tower's last one.
            final: the text tower's last norm.
            stream: residual stream (N, L, D) of texts after it.
            frames: (N, T, D) features of a clip that belongs to each text.
        """
        x = self.adapters.added("attention", 0, stream)
        x = self.adapters.added("mlp", 0, x + attend_across(block, x, frames))
        x = final(run_block(block, x, half="mlp"))
        x = self.norm(F.gelu(self.transform(x)))
        return similarity(F.pad(x, (0, 1), value=1.0), self.rows.rows)


def split(text: str) -> list[str]:
    """Words and punctuation of a text, in lower case."""
    return re.findall(r"[\w'-]+|[^\w\s]+", text.lower())


def is_word(part: str) -> bool:
    """Whether a part of a text is a word, not punctuation."""
    return any(character.isalnum() for character in part)
