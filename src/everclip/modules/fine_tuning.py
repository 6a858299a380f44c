"""What methods that fine-tune both towers of CLIP share."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from everclip.backbones.base import Backbone
from everclip.types import ClassSet


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
