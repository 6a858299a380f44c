"""Regions of pictures as pictures of their own, and what attention between them and the words of a text makes of them.

Shapes: B pictures or texts, R regions, L tokens, E the joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from everclip.types import Batch, Draw, Indices, Prepare, Samples


class Regions(Samples):
    """Pictures cut into the cells of several grids: a batch has them as (B, R, 3, S, S), grid by grid, row by row.

    Args:
        source: the pictures.
        grids: cells along each side; 1 is the whole picture.
    """

    def __init__(self, source: Samples, grids: Sequence[int]) -> None:
        self._source, self._grids = source, tuple(grids)
        self.labels, self.texts, self.files = source.labels, source.texts, source.files

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        def cut(image: Image.Image) -> Tensor:
            return torch.stack([prepare(image.crop(box)) for box in grid_boxes(image.size, self._grids)])

        return self._source.read(indices, cut, draw)

    def subset(self, indices: Sequence[int] | Indices) -> Regions:
        return Regions(self._source.subset(indices), self._grids)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def version(self) -> str:
        return self._source.version()


def grid_boxes(size: tuple[int, int], grids: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the cells, in pixels of a picture of this width and height; none is empty."""
    width, height = size
    boxes = []
    for cells in grids:
        for row in range(cells):
            for column in range(cells):
                left, top = column * width // cells, row * height // cells
                right, bottom = (column + 1) * width // cells, (row + 1) * height // cells
                boxes.append((left, top, max(right, left + 1), max(bottom, top + 1)))
    return boxes


class RegionAttention(nn.Module):
    """One feature (B, E) of a picture and its text: the words look at the regions, and the regions at the words.

    Args:
        width: E.
        heads: of both attentions.
        temperature: of the pooling, see `pooled`.
    """

    def __init__(self, width: int, heads: int, temperature: float) -> None:
        super().__init__()
        self.words_to_regions = nn.MultiheadAttention(width, heads, batch_first=True)
        self.regions_to_words = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_words, self.norm_regions = nn.LayerNorm(width), nn.LayerNorm(width)
        self.temperature = temperature

    def forward(self, words: Tensor, regions: Tensor, padding: Tensor) -> Tensor:
        """The mean of what both have seen, pooled.

        Args:
            words: (B, L, E).
            regions: (B, R, E).
            padding: (B, L), true where a text has no word.
        """
        seen, _ = self.words_to_regions(words, regions, regions, need_weights=False)
        read, _ = self.regions_to_words(regions, words, words, key_padding_mask=padding, need_weights=False)
        text = pooled(self.norm_words(words + seen), self.temperature, padding)
        return (text + pooled(self.norm_regions(regions + read), self.temperature)) / 2


def pooled(rows: Tensor, temperature: float, padding: Tensor | None = None) -> Tensor:
    """Weighted mean (B, E) of rows (B, L, E): by a softmax over their cosines with the plain mean.

    Args:
        rows: to be pooled.
        temperature: that the cosines are divided by.
        padding: (B, L), true for rows that do not count.
    """
    out = rows.new_zeros(rows.shape[:2], dtype=torch.bool) if padding is None else padding
    kept = (~out).unsqueeze(-1).to(rows.dtype)
    mean = (kept * rows).sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True)
    cosines = F.cosine_similarity(rows, mean, dim=2)
    weights = (cosines / temperature).masked_fill(out, -torch.inf).softmax(dim=1)
    return (weights.unsqueeze(-1) * rows).sum(dim=1)
