"""Zero-shot CLIP: classes are told apart by the text features of their names; nothing is trained.

Family: baselines.
Source: arXiv 2103.00020; as a continual learner arXiv 2210.03114 (vgthengane/Continual-CLIP @ 6500b8e).
Differs: templates are the sequence's, not one fixed sentence; the code of 2210.03114 uses "a bad photo of a {}.".
"""

from __future__ import annotations

from typing_extensions import override

from everclip.methods.base import Method
from everclip.types import Phase, Session


class ZeroShot(Method):
    """The frozen backbone."""

    frozen_images = True
    frozen_texts = True
    any_objective = True
    needs_labels = False

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return ()
