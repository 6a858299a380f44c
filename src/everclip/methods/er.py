"""Experience replay: every step also trains on pictures of earlier sessions that were kept in a small memory.

All weights but the logit scale are fine-tuned with cross-entropy over all classes seen, on the batch and a second one
drawn from the memory, as if they were one. The memory is a reservoir: every picture so far is equally likely in it.
Of image-text pairs it keeps pictures with all their captions, and the pairs of both batches are compared with each
other.

Family: exemplars.
Source: arXiv 1902.10486 (aimagelab/mammoth @ e75a491, models/er.py and utils/buffer.py).
Differs: the memory is renewed when a session ends, and a picture enters it once; the code inserts each batch after its
step, in every epoch anew, so that it also replays the current session. The memory is drawn in shuffled passes, there in
independent draws. The output layer is made of text features of the classes seen, there it also has those of the future.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.errors import ConfigError
from everclip.losses.global_batch import global_rows
from everclip.memory.exemplars import (
    by_class,
    first_of_each,
    numbers_of,
    random_of_each,
    reservoir,
    share,
    with_memory,
)
from everclip.methods.base import Extract, Rehearsal
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import unfreeze
from everclip.types import Batch, Phase, Positive, Session


class Er(TowerTuning, Rehearsal):
    """Fine-tuning with a replay batch beside each batch.

    Args:
        backbone: unfrozen in place.
        memory_size: pictures kept of all sessions together.
        selection: of the pictures: `reservoir`, or `balanced`, which keeps equally many of every class at random.
        replay_batch_size: kept pictures per step; None: as many as in the batch.
        label_smoothing: share of the target spread over all classes.
    """

    couples_batch = True  # micro-batches need not divide the replay batch as they divide the other

    def __init__(
        self,
        backbone: Backbone,
        *,
        memory_size: Positive = 2000,
        selection: Literal["reservoir", "balanced"] = "reservoir",
        replay_batch_size: Positive | None = None,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(backbone, "seen", label_smoothing)
        unfreeze(backbone)
        self.memory_size = memory_size
        self.balanced = selection == "balanced"
        self.replay_batch_size = replay_batch_size

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        super().begin_session(session, extract)
        if self.balanced and not session.seen:
            raise ConfigError(
                "method.selection=balanced keeps equally many of every class; use reservoir where there are none"
            )
        # Here and not at the session's end: a run that goes on inside the session draws the same again.
        choosable = len(by_class(session)[0]) if self.balanced else len(session.train)
        self.draws = torch.rand(choosable, dtype=torch.float64)
        if self.balanced:
            self.share = share(self.memory_size, len(session.seen))

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return (Phase(auxiliary=session.memory, auxiliary_batch_size=self.replay_batch_size),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if batch.auxiliary is None:
            return super().loss(batch)
        rows_of = self.objective.rows(self, self.classes)
        rows = [global_rows(part.indices, *rows_of(part)) for part in (batch, batch.auxiliary)]
        together = [torch.cat(parts) for parts in zip(*rows, strict=True)]
        return self.objective.compare(self, together, self.label_smoothing)

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        if not self.balanced:
            self.numbers = reservoir(self.numbers, session.offset, self.draws, self.memory_size)
            return
        labels, (present, absent) = torch.from_numpy(with_memory(session).labels), by_class(session)
        new = present[random_of_each(labels[present], self.draws, self.share)]
        old = absent[first_of_each(labels[absent], self.share)]
        self.numbers = numbers_of(session, self.numbers)[torch.cat([old, new])]
