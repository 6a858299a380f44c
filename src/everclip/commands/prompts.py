"""What the text tower reads of class names: names that look different may be the same to it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from everclip.errors import ConfigError
from everclip.methods.base import Method
from everclip.types import ClassSet

log = logging.getLogger("everclip")


def check_prompts(method: Method, classes: ClassSet) -> None:
    """Compares the tokens of the classes' prompts, each in its first template.

    Names written alike are left to `warn_of_twins`: publications have such.

    Raises:
        ConfigError: names that differ, but not to the model: signs that stand for each other (`&amp;`, quotes, ...), or
            texts that are cut off before they differ. The second class would never be right.
    """
    for _, group in classes.by_templates() if len(classes) else ():
        prompts = group.prompts(method.templates(group)[0])
        known: dict[tuple[int, ...], str] = {}
        long = []
        for name, text, row in zip(group.names, prompts, method.backbone.tokenize(prompts).tolist(), strict=True):
            other = known.setdefault(tuple(row), name)
            if other != name:
                raise ConfigError(
                    f"classes {other!r} and {name!r} are the same to the model, which reads {text!r} for both as the "
                    "same tokens; give them names that differ in their first words (sequence.names=FILE)"
                )
            if row[-1] and method.backbone.tokenize([f"{text} and more"])[0].tolist() == row:
                long.append(text)
        if long:
            log.warning("%d prompts fill or exceed what the model reads; one is %r", len(long), long[0])


def warn_of_twins(compared: Iterable[ClassSet]) -> None:
    """Warns of names that several classes of the same templates have, as two of ImageNet in CLIP's words.

    Args:
        compared: sets of classes that samples are compared with.
    """
    groups = (group for classes in compared if len(classes) for _, group in classes.by_templates())
    twins = {name for group in groups for name, count in Counter(group.names).items() if count > 1}
    if twins:
        log.warning("%d names are of several classes, as %r: no text tells those apart", len(twins), min(twins))
