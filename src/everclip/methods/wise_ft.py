"""WiSE-FT after every session: fine-tuned weights are interpolated with those from before the session or with CLIP's.

All weights but the logit scale are fine-tuned with cross-entropy; at the end of a session they become
`alpha` * fine-tuned + (1 - `alpha`) * anchor. `everclip-interpolate` gives the curve over alpha of stored sessions.

Family: distillation and weight averaging.
Source: arXiv 2109.01903 (mlfoundations/wise-ft @ 58b7a4b); in this continual form, with the start of the session as
anchor and alpha 0.8, the "WiSE-FT" baseline of arXiv 2303.06628 (Thunderbeee/ZSCL @ b96e714,
mtil/scripts/WiSE_finetune.sh).
Differs: arXiv 2109.01903 fine-tunes the image tower with a linear classifier made of text features, and merges both.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Extract
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace, SessionLr, own_lr, unfreeze
from everclip.modules.weight_average import interpolate
from everclip.types import Phase, Session


class WiseFt(TowerTuning):
    """Fine-tuning, then interpolation with an anchor.

    Args:
        backbone: unfrozen in place.
        alpha: share of the fine-tuned weights.
        anchor: the `previous` weights, as they were when the session began, or the `pretrained` ones.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
        session_lr: see `SessionLr`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.8,
        anchor: Literal["previous", "pretrained"] = "previous",
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        session_lr: SessionLr | None = None,
    ) -> None:
        super().__init__(backbone, label_space, label_smoothing)
        self.tuned = unfreeze(backbone)
        self.alpha = alpha
        self.follows = anchor == "previous"
        self.anchors = [parameter.detach().clone() for parameter in self.tuned]
        self.session_lr = session_lr

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        super().begin_session(session, extract)
        if self.follows:
            self.anchors = [parameter.detach().clone() for parameter in self.tuned]

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return (Phase(lr=own_lr(session, self.session_lr)),)

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        interpolate(self.tuned, self.anchors, self.alpha)
