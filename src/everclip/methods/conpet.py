"""ConPET: a constant amount of training per session, on new and earlier pictures mixed in every batch.

`dynamic`: every session trains low-rank updates of its own, an expert on its classes that then stays as it is, and a
linear selector of experts that reads the frozen image features; a picture is scored by the experts chosen for it, the
classes of all others get the null logit. `static`: one set of updates for all sessions, among all classes seen.
Trained: 245,760 values at rank 4 on ViT-B/16, and 513 per class seen (dynamic, from the second session on).

Family: low-rank updates.
Source: arXiv 2309.14763 (Raincleared-Song/ConPET @ 1a37c13, loss_similarity.py, kernel/training.py,
kernel/training_selector.py).
Differs: the model is CLIP's, and an expert's linear layer its text features, with one scale for all experts. The code's
selector has low-rank updates of its own under a layer with a row per expert; without them, the many classes of an
expert need a row each, whose probabilities are added up. Only experts on classes that are asked for are chosen, and
classes never trained on are scored by the frozen model. A picture for which the new expert is not chosen adds a
constant to its loss, which is left out. No pictures are set aside for validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.memory.exemplars import random_of_each, with_memory
from everclip.memory.mixed import MixedBatches
from everclip.methods.base import Classifier, Extract, Rehearsal
from everclip.modules.experts import NOBODY, Experts, Selector, choose, combine
from everclip.modules.fine_tuning import first_template
from everclip.modules.lora import Target, add_low_rank
from everclip.modules.tower_blocks import Towers
from everclip.types import Batch, ClassSet, Phase, Positive, Session


class Conpet(Rehearsal):
    """Low-rank updates on mixed batches: a set per session and a selector, or one for all.

    Args:
        backbone: with access to the blocks of the adapted towers.
        mode: `dynamic` or `static`.
        rank: of each update.
        alpha: an update is multiplied by alpha / rank.
        targets: projections of queries, keys, values, outputs (`o`); first and second layer of the MLP (`fc`, `proj`).
        towers: which are adapted.
        steps: mixed batches of a pass, in every session after the first.
        new_per_old: new pictures of a batch per earlier one.
        per_class: earlier pictures kept of every class; None: all.
        top_k: experts that score a picture.
        teacher_forcing: in training, the right expert is always among them.
        null_logit: of the classes of other experts.
        selector: it has a row for each of the `classes`, so several for an expert, or one for each of the `experts`.
        selector_lr: learning rate of the selector, whose gradient is clipped at norm 1; None: that of the run.
    """

    all_parameters_used = False  # experts and selector are trained in turn
    classes_return = False  # a class has one expert

    def __init__(
        self,
        backbone: Backbone,
        *,
        mode: Literal["dynamic", "static"] = "dynamic",
        rank: Positive = 4,
        alpha: Annotated[float, Field(gt=0)] = 1.0,
        targets: Annotated[Sequence[Target], Field(min_length=1)] = ("q", "v"),
        towers: Towers = "both",
        steps: Positive = 320,
        new_per_old: Annotated[float, Field(gt=0)] = 1.0,
        per_class: Positive | None = None,
        top_k: Positive = 1,
        teacher_forcing: bool = True,
        null_logit: float = -100.0,
        selector: Literal["classes", "experts"] = "classes",
        selector_lr: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        super().__init__(backbone)
        self.experts = Experts(add_low_rank(backbone, rank=rank, targets=targets, towers=towers, scale=alpha / rank))
        self.selector = Selector(backbone.embed_dim)
        self.dynamic = mode == "dynamic"
        self.shardable = not self.dynamic  # the experts chosen for some pictures, and no others
        self.steps, self.new_per_old, self.per_class = steps, new_per_old, per_class
        self.top_k, self.teacher_forcing, self.null_logit = top_k, teacher_forcing, null_logit
        self.rows_of, self.selector_lr = selector, selector_lr

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        # Here and not at the session's end: a run that goes on inside the session draws the same again.
        self.draws = torch.rand(len(session.train))
        self.seen, self.new = first_template(session.seen), first_template(session.new)
        if self.dynamic or session.is_base:
            self.experts.begin()
        self.experts.give(session.new, session.index)
        if self.dynamic and not session.is_base:
            owners = self.experts.owners if self.rows_of == "classes" else torch.arange(len(self.experts))
            self.selector.grow(owners[len(self.selector.owners) :])
            known = self.seen.select(range(len(self.seen) - len(self.new)))
            self.earlier = self._scorers(known) if self.top_k > 1 else {}

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        expert = Phase(parameters=self.experts.factors)
        if session.is_base:
            return (expert,)
        data = with_memory(session)
        owners = self.experts.owners_of(torch.from_numpy(data.labels)).cpu()
        *earlier, new = (np.flatnonzero(owners == number) for number in range(session.index + 1))
        expert = replace(expert, data=data, draws=MixedBatches(self.steps, self.new_per_old, new, tuple(earlier)))
        if not self.dynamic:
            return (expert,)
        selector = replace(expert, name="selector", parameters=(self.selector.rows,), lr=self.selector_lr)
        return replace(selector, loss=self.selector_loss), replace(expert, name="expert", loss=self.expert_loss)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": self.cross_entropy(batch, self.seen)}

    def scores(self, images: Tensor) -> Tensor:
        """The selector's scores (B, T) of the experts."""
        with torch.no_grad(), self.experts.acting(NOBODY):
            features = self.backbone.encode_image(images, normalize=False)
        return self.selector.scores(similarity(F.pad(features, (0, 1), value=1.0), self.selector.rows))

    def selector_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy among the experts so far."""
        return {"selector": F.cross_entropy(self.scores(batch.images), self.experts.owners_of(batch.labels))}

    def expert_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy among all classes seen, of the pictures for which the last expert is among the chosen."""
        chosen = self._chosen(batch)
        weights = chosen[:, -1].float()
        if not weights.any():
            chosen[0, -1] = True  # with weight 0: a share without a picture for the expert has a gradient too
        rows = chosen[:, -1]
        columns = range(len(self.seen) - len(self.new), len(self.seen))
        scorers = self.earlier | {len(self.experts) - 1: (columns, super().classifier(self.new))}
        logits = combine(batch.images[rows], chosen[rows], scorers, len(self.seen), self.null_logit)
        losses = F.cross_entropy(logits, self.seen.columns(batch.labels)[rows], reduction="none")
        return {"cross_entropy": (losses * weights[rows]).sum() / len(batch)}

    @torch.no_grad()
    def _chosen(self, batch: Batch) -> Tensor:
        """The experts (B, T) of each picture in training."""
        own = self.experts.owners_of(batch.labels)
        if self.top_k == 1 and self.teacher_forcing:
            return F.one_hot(own, len(self.experts)).bool()
        return choose(self.scores(batch.images), self.top_k, own if self.teacher_forcing else None)

    @override
    def before_step(self) -> None:
        if self.selector.rows.grad is not None:
            clip_grad_norm_(self.selector.rows, 1.0)

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        labels = torch.from_numpy(session.train.labels)
        new = random_of_each(labels, self.draws, self.per_class) if self.per_class else torch.arange(len(labels))
        self.numbers = torch.cat([self.numbers, session.offset + new.to(self.numbers.device)])

    @override
    def num_arriving(self, sizes: Sequence[int], images: Sequence[int] = ()) -> int:
        if not self.dynamic or len(sizes) == 1:
            return 0
        rows = sizes if self.rows_of == "classes" else [1] * len(sizes)
        return sum(rows if len(sizes) == 2 else rows[-1:]) * self.selector.rows.shape[1]

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`."""
        arriving = sum(self.num_arriving(sizes[: number + 1]) for number in range(len(sizes)))
        earlier = (len(sizes) - 1) * self.experts.earlier.shape[1] if self.dynamic else 0
        return (arriving + earlier) * self.selector.rows.itemsize

    def _scorers(self, classes: ClassSet) -> dict[int, tuple[list[int], Classifier]]:
        """Every expert that has some of the classes: which, and its classifier of them."""
        make = super().classifier
        return {
            number: (own, self.experts.scorer(number, partial(make, classes.select(own))))
            for number, own in self.experts.share_out(classes).items()
        }

    @override
    def outside_towers(self) -> tuple[str, ...]:
        return super().outside_towers() if self.dynamic else ()

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        if not self.dynamic:
            return super().classifier(classes)
        scorers = self._scorers(classes)
        known = [number in scorers for number in range(len(self.experts))]
        asked = torch.tensor(known, device=self.numbers.device)

        def classify(images: Tensor) -> Tensor:
            chosen = asked.expand(len(images), -1)
            if sum(known) > self.top_k:
                chosen = choose(self.scores(images).masked_fill(~asked, -torch.inf), self.top_k)
            everyone = torch.ones_like(chosen[:, :1])  # chooses `NOBODY`, in the last column
            return combine(images, torch.cat([chosen, everyone], dim=1), scorers, len(classes), self.null_logit)

        return classify
