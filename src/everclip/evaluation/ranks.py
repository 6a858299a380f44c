"""Ranks of right pictures and texts among all others: exact, a block of similarities at a time."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**22  # similarities at a time: 16 MB
PAIRS = 2**12  # pictures and texts compared again at a time: 16 MB at width 512
DENSE = 8  # a block of which one in so many must be compared again is multiplied again as a whole


def ranks(pictures: Tensor, texts: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """How many wrong texts stand before each picture's best own one (P,), and wrong pictures before each text's (N,).

    All similarities are computed in float32. Those that its rounding might put on the other side of the best right one
    are computed again in float64; what not even float64 tells apart is a tie, and counts against the query. So the
    numbers are the same for any size of a block and any order of summing up.

    Args:
        pictures: (P, E) features on the CPU; of one without a text nothing follows.
        texts: (N, E) features.
        owner: (N,) the picture that a text belongs to.
    """
    largest = pictures.norm(dim=1).max() * texts.norm(dim=1).max()
    # Twice what the rounding of E products and their sum can come to (Higham, Accuracy and Stability of Numerical
    # Algorithms, section 3.1), and of the limits themselves.
    close, tie = (float(largest) * (pictures.shape[1] + 4) * torch.finfo(d).eps for d in (torch.float, torch.double))
    own = _similarities(pictures, texts, owner, torch.arange(len(texts)))
    best = own.new_full((len(pictures),), -torch.inf).scatter_reduce(0, owner, own, "amax")
    before_text, before_picture = (torch.zeros(len(rows), dtype=torch.long) for rows in (pictures, texts))
    size = max(1, BLOCK // len(texts))
    for start in range(0, len(pictures), size):
        block, reached = pictures[start : start + size], best[start : start + size, None]
        with torch.autocast("cpu", enabled=False):
            similar = block @ texts.T
        of_picture, of_text = similar > (reached + close).float(), similar > (own + close).float()
        before_text[start : start + size] += _count(of_picture, 1)
        before_picture += _count(of_text, 0)
        unsure = (of_picture ^ (similar >= (reached - close).float())) | (of_text ^ (similar >= (own - close).float()))
        row, text = unsure.nonzero(as_tuple=True)
        if len(row) * DENSE < unsure.numel():
            again = _similarities(block, texts, row, text)
        else:
            again = (block.double() @ texts.double().T)[row, text]
        wrong, limit = owner[text] != row + start, again + tie
        before_text += torch.bincount(
            (row + start)[wrong & ~of_picture[row, text] & (limit >= reached[row, 0])], minlength=len(pictures)
        )
        before_picture += torch.bincount(text[wrong & ~of_text[row, text] & (limit >= own[text])], minlength=len(texts))
    return before_text, before_picture


def _similarities(pictures: Tensor, texts: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Similarities (M,) of chosen pictures and texts in float64."""
    chosen = zip(rows.split(PAIRS), columns.split(PAIRS), strict=True)
    return torch.cat([(pictures[row].double() * texts[column].double()).sum(dim=1) for row, column in chosen])


def _count(found: Tensor, dim: int) -> Tensor:
    """How many are true; several times as fast on bytes as on truth values."""
    return found.view(torch.uint8).sum(dim=dim, dtype=torch.int32)
