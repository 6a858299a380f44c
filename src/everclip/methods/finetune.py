"""Sequential fine-tuning of all weights: the lower bound that forgets.

Each session goes on from the last one's weights with cross-entropy over the session's own classes; both towers are
trained, text features are live.

Family: baselines.
Source: the "fine-tune" baseline of arXiv 2303.06628 (Thunderbeee/ZSCL @ b96e714).
Differs: epochs instead of 1000 steps, unless the sequence has a tuning; no label smoothing unless asked for; the logit
scale is trained too, and a class is the mean over its templates (`wise_ft` with `alpha: 1` is the baseline as it is).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Extract, Method
from everclip.modules.fine_tuning import LabelSpace, compared
from everclip.objectives.classification import Classification
from everclip.types import Batch, Session


class Finetune(Method):
    """All weights of the backbone, trained session after session.

    Args:
        backbone: unfrozen in place.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    any_objective = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(backbone)
        backbone.requires_grad_(True)
        self.label_space = label_space
        self.label_smoothing = label_smoothing

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.objective = session.objective or Classification()
        self.classes = compared(session, self.label_space)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective.loss(self, batch, self.classes, self.label_smoothing)
