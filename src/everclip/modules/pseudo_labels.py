"""Which pictures without labels are taken for which class: as many for every class, whatever a model prefers.

N: pictures, C: classes, M: choices; a picture may be chosen for several classes.

Source: arXiv 2306.01669 section 3.2 (BatsResearch/menghini-neurips23-code @ b387624, utils/clip_pseudolabels.py;
methods/*/training_strategies.py @ 2094fa5, which later commits lack).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def growing_count(iteration: int, iterations: int, pictures: int, classes: int) -> int:
    """Pictures to choose per class in an iteration, counted from 1: at last all, if classes have equally many."""
    return max(1, min(int(iteration * (pictures // iterations) / classes), pictures // classes))


def likeliest(probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows (M,) of the `count` likeliest pictures of each class, or all, and their classes (M,), class by class.

    Args:
        probabilities: (N, C) of classes.
        count: per class.
    """
    rows = probabilities.topk(min(count, len(probabilities)), dim=0).indices.T
    columns = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
    return rows.flatten(), columns.flatten()


def leaderboards(probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `likeliest`, but a picture stands for other classes than its likeliest only if it found no place there.

    Pictures come one by one, as in the code: one without a place in its likeliest class takes one in every other that
    has one for it. There is a place as long as a class has less than `count`; then a picture must be likelier than the
    last that came, and once one was displaced, than the least likely.
    """
    boards: list[list[tuple[float, int]]] = [[] for _ in range(probabilities.shape[1])]
    bars = np.full(len(boards), -np.inf)
    for row, own in enumerate(probabilities.cpu().numpy()):
        best = own.argmax()
        for column in [best] if own[best] > bars[best] else np.flatnonzero(own > bars):
            board = boards[column]
            board.append((own[column], row))
            if len(board) > count:
                board.sort(reverse=True)
                board.pop()
            if len(board) == count:
                bars[column] = board[-1][0]
    pairs = [(row, column) for column, board in enumerate(boards) for _, row in board]
    rows, columns = torch.tensor(pairs, device=probabilities.device).T
    return rows, columns
