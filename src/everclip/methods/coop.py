"""CoOp: context optimisation, which learns tokens in front of a class name in place of words like "a photo of a".

Trained: those tokens, shared by all classes and sessions (8,192 values at 16 tokens on ViT-B/16), or a set per class.
A training picture is compared with the classes of its session. The name of a new class gets the shared context as it
is; with `class_specific`, a new class begins with a context of its own, and earlier ones stay.

Family: prompts.
Source: arXiv 2109.01134, official code KaiyangZhou/CoOp @ ff61507 (`trainers/coop.py`).
Differs: the class name stands behind its context, never in front of it or inside.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.methods.base import Extract
from everclip.methods.families import ContextLearner
from everclip.modules.class_rows import ClassRows
from everclip.modules.prompts import Context
from everclip.types import ClassSet, Positive, Session


class Coop(ContextLearner):
    """Learned context.

    Args:
        backbone: with access to the tokens of its text tower; stays frozen.
        length: learned tokens.
        words: that they begin as, one token each; words beyond `length` stay words. None: begin at random.
        class_specific: every class has a context of its own, so that only trained classes can be scored.
    """

    frozen_images = True

    def __init__(
        self, backbone: Backbone, *, length: Positive = 16, words: str | None = None, class_specific: bool = False
    ) -> None:
        super().__init__(backbone, Context(backbone, length=length, words=words))
        self.words = words
        self.contexts = ClassRows(self.context.tokens.numel(), trainable=True) if class_specific else None
        self.context.tokens.requires_grad_(not class_specific)
        self.open_vocabulary = not class_specific

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        if self.contexts is not None:
            first = self.context.tokens.flatten().expand(len(session.new), -1)
            self.contexts.append(session.new, 0.02 * torch.randn(first.shape) if self.words is None else first)
            self.put_back = self.contexts.keeping_others(session.classes)

    @override
    def after_step(self) -> None:
        if self.contexts is not None:
            self.put_back()

    @override
    def class_features(self, classes: ClassSet) -> Tensor:
        if self.contexts is None:
            return super().class_features(classes)
        tokens = self.contexts.of(classes).unflatten(1, self.context.tokens.shape[1:])
        return self.context.encode(self.backbone, classes.prompts(self.context.template), tokens[None])
