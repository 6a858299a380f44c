"""What evaluators take from a method: right shapes and finite numbers only, with class names as it knows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.data.pairs import CaptionedImages
from everclip.errors import ContractError, NotFiniteError
from everclip.evaluation.classification import Classification
from everclip.evaluation.retrieval import Retrieval
from everclip.methods.base import Classifier, Method
from everclip.training.engine import Engine
from everclip.training.evaluation import Judge
from everclip.types import ClassSet, Evaluator, Samples, Session, Task, TaskSequence

CLASSES = ClassSet((0, 1, 2), ("a", "b", "c"))
IMAGES: Samples = ArrayImages(np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 3, "black")
PAIRS: Samples = CaptionedImages(IMAGES, [["a", "b"]] * 20)
Change = Callable[[Tensor], Tensor]


class Changed(Method):
    """Gives logits and text features of one kind, changed."""

    def __init__(self, backbone: OpenClip, change: Change) -> None:
        super().__init__(backbone)
        self.change = change

    def classifier(self, classes: ClassSet) -> Classifier:
        return lambda images: self.change(torch.ones(len(images), len(classes)))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return self.change(torch.ones(len(texts), self.backbone.embed_dim))


def judge_of(engine: Engine, evaluator: Evaluator) -> Judge:
    """Of one task, which is the held-out one too."""
    classes, samples = CLASSES, IMAGES
    if isinstance(evaluator, Retrieval):
        classes, samples = ClassSet((), ()), PAIRS
    task = Task("cards", classes, samples, evaluator, 0)
    return Judge(engine, TaskSequence("made", (Session(0, "", classes, classes, samples),), (task,), held_out=task))


def last_row(value: float) -> Change:
    def change(rows: Tensor) -> Tensor:
        rows = rows.clone()
        rows[-1, -1] = value
        return rows

    return change


NOT_FINITE = "Changed gave logits or features that are not finite on task cards; lower optimizer.lr"


@pytest.mark.parametrize(
    ("evaluator", "change", "message"),
    [
        pytest.param(Classification(), last_row(float("nan")), NOT_FINITE, id="a NaN among logits"),
        pytest.param(Classification("task"), last_row(float("-inf")), NOT_FINITE, id="an infinite logit"),
        pytest.param(Retrieval(), last_row(float("nan")), NOT_FINITE, id="a NaN among features"),
        pytest.param(
            Classification(),
            lambda rows: rows[:, 1:],
            r"Changed gave logits of shape \(16, 2\) instead of \(16, 3\) on task cards",
            id="a class is missing",
        ),
        pytest.param(
            Classification(), lambda rows: rows[0], r"logits of shape \(3,\) instead of \(16, 3\)", id="one picture"
        ),
        pytest.param(
            Retrieval(), lambda rows: rows[1:], r"text features of shape .* instead of \(16, any\)", id="a lost text"
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(
    tiny: Callable[[], OpenClip], engine: Engine, evaluator: Evaluator, change: Change, message: str
) -> None:
    expected = NotFiniteError if message == NOT_FINITE else ContractError
    with pytest.raises(expected, match=message):
        judge_of(engine, evaluator).evaluate(Changed(tiny(), change), 0)


def test_held_out_classes_are_judged_as_strictly(tiny: Callable[[], OpenClip], engine: Engine) -> None:
    judge = judge_of(engine, Classification("task"))
    with pytest.raises(NotFiniteError, match=NOT_FINITE):
        judge.held_out(Changed(tiny(), last_row(float("nan"))))
    assert judge.held_out(Changed(tiny(), lambda rows: rows)) == 35  # all are taken for the first class, 7 of 20 are
