"""Sharpness: how much a loss rises where weights are moved in proportion to their size.

Source: arXiv 2302.07011, official code tml-epfl/sharpness-vs-generalization @ 6d73be9 (`sharpness.py`: adaptive
`eval_average_sharpness` with norm `l2`, `eval_APGD_sharpness` with norm `linf` from the weights themselves).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean

import torch
from torch import Tensor

Loss = Callable[[], Tensor]  # scalar, of the weights as they are; over samples of its own
MOMENTUM = 0.75
LEAST_PROGRESS = 0.75  # share of steps that must reach a new maximum, else the step is halved


@contextmanager
def _moved(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Copies of the weights, which are put back to the last bit."""
    kept = [weight.detach().clone() for weight in weights]
    try:
        yield kept
    finally:
        _place(weights, kept)


@torch.no_grad()
def _place(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def average_sharpness(losses: Sequence[Loss], weights: Sequence[Tensor], radius: float, draws: int, seed: int) -> float:
    """Mean rise of the losses where every weight w gets Gaussian noise of standard deviation `radius * |w|`.

    Args:
        losses: one per batch, each with noise of its own.
        weights: that are moved, in place, and put back.
        radius: rho.
        draws: per batch.
        seed: of the noise, which is the same on any device.
    """
    draw = torch.Generator().manual_seed(seed)
    rises = []
    with torch.no_grad(), _moved(weights) as kept:
        for loss in losses:
            _place(weights, kept)
            before = float(loss())
            for _ in range(draws):
                noise = [torch.randn(w.shape, generator=draw, dtype=w.dtype).to(w.device) for w in kept]
                _place(weights, [w + radius * w.abs() * n for w, n in zip(kept, noise, strict=True)])
                rises.append(float(loss()) - before)
    return fmean(rises)


def worst_sharpness(losses: Sequence[Loss], weights: Sequence[Tensor], radius: float, steps: int) -> float:
    """Largest rise of the losses found where every weight w may move by `radius * |w|`; 0 if none is found.

    By steps along the sign of the gradient with momentum, halved where they stop to help (Auto-PGD). As in the code, a
    step after that has the gradient at the best weights so far, and goes on from the last ones.

    Args:
        losses: one per batch, whose mean rise it is.
        weights: that are moved, in place, and put back; they require gradients.
        radius: rho.
        steps: per batch.
    """
    with _moved(weights) as kept:
        return fmean(_ascent(loss, weights, kept, radius, steps) for loss in losses)


def _ascent(loss: Loss, weights: Sequence[Tensor], kept: Sequence[Tensor], radius: float, steps: int) -> float:
    _place(weights, kept)
    reach = [radius * weight.abs() for weight in kept]
    with torch.no_grad():
        before = float(loss())
    moves = [torch.zeros_like(weight) for weight in kept]
    earlier, best, best_weights = moves, before, kept
    size, judged = 2.0, (0, 2.0, before)  # of a step, in radii; number, size and best at the last judgement
    reached = 0
    due = _judgements(steps)
    for number in range(steps):
        value = loss()
        if not value.requires_grad:  # it reads none of these weights
            return 0.0
        gradients = torch.autograd.grad(value, weights, allow_unused=True)
        signs = [torch.zeros_like(w) if g is None else g.sign() for w, g in zip(kept, gradients, strict=True)]
        stepped = [(m + size * r * s).clamp(-r, r) for m, r, s in zip(moves, reach, signs, strict=True)]
        moves, earlier = [s.lerp(e, 1 - MOMENTUM) for s, e in zip(stepped, earlier, strict=True)], moves
        _place(weights, [weight + move for weight, move in zip(kept, moves, strict=True)])
        with torch.no_grad():
            value = loss()
        if float(value) > best:
            best, best_weights, reached = float(value), [weight.detach().clone() for weight in weights], reached + 1
        if number in due:
            few, stuck = reached < LEAST_PROGRESS * (number - judged[0]), judged[1:] == (size, best)
            judged, reached = (number, size, best), 0
            if few or stuck:
                size /= 2
                _place(weights, best_weights)
    return best - before


def _judgements(steps: int) -> set[int]:
    """Numbers of the steps after which progress is judged, which come closer to each other."""
    shares, found = [0.0, 0.22], [0, math.ceil(0.22 * steps)]
    while found[-1] < steps and found[-1] != found[-2]:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
        found.append(math.ceil(shares[-1] * steps))
    return set(found[1:])
