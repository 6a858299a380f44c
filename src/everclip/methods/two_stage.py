"""2SFS: first the norms of both towers are tuned, then the text features of the classes alone, as a classifier.

The first part of a session's passes trains the LayerNorms in the blocks (61,440 values on ViT-B/16) by cross-entropy
with live text features. What the towers then say of the session's new classes becomes rows that the rest trains by
themselves, on pictures that the frozen towers see. A class with a row is scored by it, any other by its text: base and
novel classes are told apart by name. New classes train the norms on and bring rows of their own, which are compared
with each other alone; earlier rows stay as they are, while the towers move on below them.

Family: behind the towers.
Source: arXiv 2503.11609, official code FarinaMatteo/rethinking_fewshot_vlms @ 64ac143 (fs/twostage.py).
Differs: stages end with a pass over the pictures, not within one. As in the code, and other than its options say, the
norms before the first block and after the last stay frozen.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Extract, Method, Preparation
from everclip.modules.class_rows import ClassRows
from everclip.modules.fine_tuning import LabelSpace, compared, first_template
from everclip.modules.lora import LowRank, add_low_rank
from everclip.modules.tower_blocks import Towers, layer_norms
from everclip.types import Batch, ClassSet, Phase, Positive, Session


class TwoStage(Method):
    """Towers first, classifier second.

    Args:
        backbone: its norms are unfrozen in place, or low-rank updates put onto its attention.
        tuned: what the first stage trains: `layer_norms`, or low-rank updates of queries, keys and values, `lora`.
        towers: where.
        rank: of low-rank updates, which are divided by its square root.
        share: of the passes over the pictures that belongs to the first stage.
        label_space: see `LabelSpace`.
    """

    all_parameters_used = False  # the stages take turns

    def __init__(
        self,
        backbone: Backbone,
        *,
        tuned: Literal["layer_norms", "lora"] = "layer_norms",
        towers: Towers = "both",
        rank: Positive = 2,
        share: Annotated[float, Field(ge=0, le=1)] = 0.6,
        label_space: LabelSpace = "current",
    ) -> None:
        super().__init__(backbone)
        self.updates: tuple[LowRank, ...] = ()
        if tuned == "lora":
            added = add_low_rank(backbone, rank=rank, targets=("q", "k", "v"), towers=towers, scale=rank**-0.5)
            self.updates = tuple(added)
            self.tuned = tuple(parameter for update in added for parameter in update.parameters())
        else:
            self.tuned = tuple(layer_norms(backbone, towers, outside_blocks=False))
        for parameter in self.tuned:
            parameter.requires_grad_(True)
        self.rows = ClassRows(backbone.embed_dim, trainable=True)
        self.share = share
        self.label_space = label_space

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = compared(session, self.label_space)
        self.read = first_template(self.classes)
        for update in self.updates if session.is_base else ():
            update.reset()

    @override
    def phases(self, session: Session) -> tuple[Phase | Preparation, ...]:
        both = 0 < self.share < 1
        epochs = max(1 + both, round(session.repeats))
        first = round(self.share * session.repeats)
        first = min(max(1, first), epochs - 1) if both else epochs * round(self.share)
        features = Phase("features", parameters=self.tuned, loss=self.features_loss, epochs=first)
        return features, partial(self.second, session, epochs - first)

    def features_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the first stage, for which no class has a row."""
        text = super().class_features(self.read)
        logits = self.backbone.logit_scale * similarity(self.encode_image(batch.images), text)
        return {"cross_entropy": F.cross_entropy(logits, self.read.columns(batch.labels))}

    def second(self, session: Session, epochs: int, extract: Extract) -> Phase:
        """The second stage, with rows of the new classes as the towers now see them."""
        known = self.rows.ids.tolist()
        new = session.classes.select([i for i, class_id in enumerate(session.classes.ids) if class_id not in known])
        if new:
            with torch.no_grad():
                self.rows.append(new, super().class_features(new))
        self.known = frozen_features(self.encode_image, session.train, extract, keep=session.recurs)
        return Phase("classifier", parameters=(self._trained_rows(),), loss=self.classifier_loss, epochs=epochs)

    def _trained_rows(self) -> nn.Parameter:
        assert isinstance(self.rows.rows, nn.Parameter)
        return self.rows.rows

    def classifier_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the second stage."""
        logits = self.backbone.logit_scale * similarity(self.known(batch), self.class_features(self.classes))
        return {"classifier": F.cross_entropy(logits, self.classes.columns(batch.labels))}

    @override
    def class_features(self, classes: ClassSet) -> Tensor:
        ids = set(self.rows.ids.tolist())
        learned = [i for i, class_id in enumerate(classes.ids) if class_id in ids]
        others = [i for i, class_id in enumerate(classes.ids) if class_id not in ids]
        if not learned:
            return super().class_features(classes)
        features = F.normalize(self.rows.of(classes.select(learned)), dim=-1)
        if not others:
            return features
        text = super().class_features(classes.select(others))
        order = torch.tensor([*learned, *others], device=text.device).argsort()
        return torch.cat([features, text])[order]
