"""What the text tower reads of class names: names that look different may be the same to it."""

from __future__ import annotations

import logging

from everclip.errors import ConfigError
from everclip.methods.base import Method
from everclip.types import ClassSet

log = logging.getLogger("everclip")


def check_prompts(method: Method, classes: ClassSet) -> None:
    """Compares the tokens of the classes' prompts, each in its first template.

    Names written alike are only warned of: publications have such, as ImageNet in CLIP's words.

    Raises:
        ConfigError: names that differ, but not to the model: signs that stand for each other (`&amp;`, quotes, ...), or
            texts that are cut off before they differ. The second class would never be right.
    """
    for _, group in classes.by_templates() if len(classes) else ():
        prompts = group.prompts(method.templates(group)[0])
        known: dict[tuple[int, ...], str] = {}
        long, twins = [], []
        for name, text, row in zip(group.names, prompts, method.backbone.tokenize(prompts).tolist(), strict=True):
            other = known.get(tuple(row))
            if other == name:
                twins.append(name)
            known[tuple(row)] = name
            if other not in (None, name):
                raise ConfigError(
                    f"classes {other!r} and {name!r} are the same to the model, which reads {text!r} for both as the "
                    "same tokens; give them names that differ in their first words (sequence.names=FILE)"
                )
            if row[-1] and method.backbone.tokenize([f"{text} and more"])[0].tolist() == row:
                long.append(text)
        if twins:
            log.warning("%d classes have the name of another, as %r; no text tells them apart", len(twins), twins[0])
        if long:
            log.warning("%d prompts fill or exceed what the model reads; one is %r", len(long), long[0])
