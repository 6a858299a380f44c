"""Batches of a fixed composition: part new pictures, part earlier ones, in a number that does not grow."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from everclip.errors import ConfigError
from everclip.types import Indices


@dataclass(frozen=True)
class MixedBatches:
    """Draws batches in which new pictures are distinct and earlier ones come from each session alike.

    Of B pictures, floor(B r / (r + 1)) are new. For each of the others first a session is drawn, then one of its
    pictures. New ones stand first, so that processes and micro-batches, which take every n-th, share both kinds. With
    too few new pictures for a batch, they may occur several times.

    Attributes:
        steps: batches of a pass.
        ratio: r, new pictures per earlier one.
        new: positions in the data of the pictures of the session.
        earlier: the same of each session before.

    Source: arXiv 2309.14763 (Raincleared-Song/ConPET @ 1a37c13, preprocess/custom_loader.py).
    """

    steps: int
    ratio: float
    new: Indices = field(repr=False)
    earlier: tuple[Indices, ...] = field(repr=False)

    def __call__(self, stream: np.random.Generator, size: int) -> Indices:
        """Positions (size,) of one batch.

        Raises:
            ConfigError: it would have pictures of one kind only.
        """
        count = int(size * self.ratio / (self.ratio + 1))
        if not 0 < count < size:
            raise ConfigError(
                f"of a batch of {size}, method.new_per_old={self.ratio} makes {count} pictures new, where both new and "
                "earlier ones are needed; raise train.batch_size"
            )
        own = stream.choice(self.new, count, replace=count > len(self.new))
        pools = [self.earlier[session] for session in stream.integers(len(self.earlier), size=size - count)]
        return np.array([*own, *(pool[stream.integers(len(pool))] for pool in pools)])
