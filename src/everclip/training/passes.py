"""Passes of an engine over samples and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from everclip.data.loading import OrderedBatches
from everclip.methods.base import Method
from everclip.types import Batch, Draw, Samples

if TYPE_CHECKING:
    from everclip.training.engine import Engine


class EnginePasses:
    """Passes over everything there is, shared by all processes; see `everclip.types.Passes`."""

    def __init__(self, engine: Engine, method: Method, shown: Draw | None = None) -> None:
        self._engine, self._method, self._shown = engine, method, shown

    def samples(self, samples: Samples, function: Callable[[Batch], Tensor], *, by_features: bool = False) -> Tensor:
        """What a function gives for batches of samples: rows (N, ...) in their order, on every process."""
        batches = self._engine.batches(samples, self._method, self._shown, by_features=by_features)
        return self._rows(len(samples), map(function, batches))

    def texts(self, texts: Sequence[str], function: Callable[[Sequence[str]], Tensor]) -> Tensor:
        """What a function gives for texts: rows (N, ...) in their order, on every process."""
        engine = self._engine
        batches = OrderedBatches(len(texts), engine.eval_batch_size, engine.rank, engine.world_size)
        shares = ([texts[position] for position in positions] for positions in batches)
        return self._rows(len(texts), (function(share or [texts[0]])[: len(share)] for share in shares))

    def _rows(self, count: int, parts: Iterable[Tensor]) -> Tensor:
        """All rows (count, ...) in their order, on every process, from the parts of this process's share.

        Written where they stay: small results kept among large batches would hold the memory of all of these.
        """
        engine, start = self._engine, 0
        own = torch.empty(0)
        with torch.no_grad(), engine.inference():
            for part in parts:
                if start == 0:
                    kind = torch.float32 if part.is_floating_point() else part.dtype
                    own = part.new_empty(len(range(engine.rank, count, engine.world_size)), *part.shape[1:], dtype=kind)
                own[start : start + len(part)] = part
                start += len(part)
        if engine.world_size == 1:
            return own
        order = torch.cat([torch.arange(rank, count, engine.world_size) for rank in range(engine.world_size)]).argsort()
        return engine.gather(own)[order.to(own.device)]
