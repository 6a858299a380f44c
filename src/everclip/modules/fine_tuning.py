"""What methods that fine-tune CLIP share, with all of its weights or some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from everclip.backbones.base import Backbone
from everclip.types import Batch, ClassSet, Session

# Classes that a training picture is compared with: those of the `current` session, or all `seen` so far.
LabelSpace = Literal["current", "seen"]
# Learning rates of the sessions, by name, that have one of their own.
SessionLr = Mapping[str, Annotated[float, Field(gt=0)]]


def unfreeze(backbone: Backbone) -> list[nn.Parameter]:
    """Makes every weight trainable in place, apart from scale and bias of the logits; gives the trainable ones.

    Source: `exclude_params_name` of Thunderbeee/ZSCL @ b96e714.
    """
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[2] not in ("logit_scale", "logit_bias"))
    return [parameter for parameter in backbone.parameters() if parameter.requires_grad]


def first_template(classes: ClassSet) -> ClassSet:
    """The classes with the first of their templates alone; training reads one text per class, evaluation all."""
    own = tuple(templates[:1] for templates in classes.own_templates)
    return replace(classes, templates=classes.templates[:1], own_templates=own)


def texts_of(batch: Batch, classes: ClassSet) -> tuple[str, ...]:
    """The texts (B of them) of a batch: its own, or else those of its labels among `classes`, by their first template.

    Of pictures of one class, a softmax over the batch then counts each other's text as wrong; but equal texts are
    equally likely whatever is right, so that the gradient is that of targets spread over all of them.
    """
    if batch.texts is not None:
        return batch.texts
    prompts = classes.first_prompts()
    return tuple(prompts[column] for column in classes.columns(batch.labels).tolist())


def compared(session: Session, label_space: LabelSpace) -> ClassSet:
    """The classes that a training picture of a session is compared with."""
    return session.classes if label_space == "current" else session.seen


def own_lr(session: Session, session_lr: SessionLr | None) -> float | None:
    """The learning rate that a session has of its own; None: it trains with the optimiser's."""
    return (session_lr or {}).get(session.name)
