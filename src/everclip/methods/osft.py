"""OSFT (sculpting subspaces): fine-tuning in the directions of a weight that matter least; the others stay as they are.

At the start of a session the weights of attention and MLP are split by their singular values. The directions of the
largest ones are fixed; the rest is trained in factored form, and kept orthogonal to what is fixed, by cross-entropy
over the session's own classes. So outputs for inputs that lie in the fixed directions do not change at all.

Family: orthogonal updates.
Source: arXiv 2504.07097, for language models, in the form of huggingface/peft @ 5d602fd (src/peft/tuners/osf); the
research code (Red-Hat-AI-Innovation-Team/orthogonal-subspace-learning @ a5f91f6) leaves the factors untrained.
Differs: steps are projected too, not gradients alone (`project`), as Adam turns projected gradients away from their
subspace; `adaptive` takes the size of an importance: signed ones average to almost nothing over the layers of CLIP.
Only the factored form exists; `everclip.modules.lora.fold` makes plain weights of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Extract
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace, first_template
from everclip.modules.subspaces import split_weights, token_similarity
from everclip.modules.tower_blocks import Towers
from everclip.types import Positive, Session

Share = Annotated[float, Field(ge=0, le=1)]


class Osft(TowerTuning):
    """Fine-tuning orthogonal to the main singular directions of every weight.

    Args:
        backbone: with access to the blocks of the trained towers.
        policy: share of the directions of a weight that a session fixes: the same in all, `fixed`; growing with the
            sessions, `budget`: i / `num_sessions` in session i, counted from 0; or `adaptive`: `min_share` + importance
            * (`max_share` - `min_share`), from the similarity of a weight's inputs and outputs on earlier pictures.
        share: of the policy `fixed`.
        num_sessions: of the policy `budget`; None: those of the sequence.
        min_share: of the policy `adaptive`, for a weight of no importance.
        max_share: of the policy `adaptive`, for a weight of mean importance.
        importance_images: pictures that the policy `adaptive` looks at.
        project: what is made orthogonal to the fixed directions: the `gradient` alone, or the `update` too.
        towers: which are trained.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.

    Raises:
        ValueError: the policy `budget` without `num_sessions`, or a tower that is no plain transformer.
    """

    importance: Tensor

    shardable = False  # the directions of weights are computed from whole weights

    def __init__(
        self,
        backbone: Backbone,
        *,
        policy: Literal["fixed", "budget", "adaptive"] = "fixed",
        share: Share = 0.5,
        num_sessions: Positive | None = None,
        min_share: Share = 0.1,
        max_share: Share = 0.8,
        importance_images: Positive = 64,
        project: Literal["gradient", "update"] = "update",
        towers: Towers = "both",
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(backbone, label_space, label_smoothing)
        if policy == "budget" and num_sessions is None:
            raise ValueError("policy=budget needs num_sessions")
        self.places = split_weights(backbone, towers)
        self.matrices = tuple(m for places in self.places.values() for place in places for m in place.weight.matrices())
        self.register_buffer("importance", torch.ones(len(self.matrices)))  # of every matrix, mean 1
        self.policy = policy
        self.share, self.num_sessions = share, num_sessions
        self.min_share, self.max_share = min_share, max_share
        self.importance_images = importance_images
        self.project = project

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        super().begin_session(session, extract)
        if session.is_base:
            self.measure(session, extract)
        keep = [round(s * m.size) for s, m in zip(self.shares(session.index), self.matrices, strict=True)]
        for place in (place for places in self.places.values() for place in places):
            number = len(place.weight.parts)
            place.split(keep[:number])
            keep = keep[number:]

    @override
    def num_arriving(self, sizes: Sequence[int], images: Sequence[int] = ()) -> int:
        if len(sizes) > 1:  # later sessions split the same weights anew
            return 0
        shares = zip(self.matrices, self.shares(0), strict=True)
        return sum((m.size - round(share * m.size)) * (m.rows + m.columns + 1) for m, share in shares)

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`: the factors."""
        return sum(m.size * (m.rows + m.columns + 1) * m.high_scale.itemsize for m in self.matrices)

    def shares(self, session: int) -> list[float]:
        """The share of its directions that a session fixes, of every matrix."""
        if self.policy == "adaptive":
            shares = self.min_share + self.importance * (self.max_share - self.min_share)
            return [float(share) for share in shares.clamp(0, 1)]
        share = min(session / (self.num_sessions or 1), 1) if self.policy == "budget" else self.share
        return [share] * len(self.matrices)

    @override
    def before_step(self) -> None:
        for matrix in self.matrices:
            matrix.project_gradients()

    @override
    def after_step(self) -> None:
        for matrix in self.matrices if self.project == "update" else ():
            matrix.project_factors()

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        self.measure(session, extract)

    def measure(self, session: Session, extract: Extract) -> None:
        """Finds the importance of every matrix on the first pictures of a session, and its class names or captions."""
        if self.policy != "adaptive":
            return
        images = session.train.subset(range(min(self.importance_images, len(session.train))))
        groups = [group for _, group in first_template(session.classes).by_templates()]
        texts = [text for group in groups for text in group.prompts(group.templates[0])]
        texts += [own[0] for own in images.texts]
        found = []
        for tower, places in self.places.items():
            if tower == "vision":
                found.append(extract(images, token_similarity(self.backbone.encode_image, places))[0])
            else:
                tokens = self.backbone.tokenize(texts).to(self.backbone.device)
                with torch.no_grad():
                    found.append(token_similarity(self.backbone.encode_text, places)(tokens))
        sizes = torch.cat([similar.mean(dim=0) for similar in found]).abs()
        self.importance = sizes / sizes.mean()
