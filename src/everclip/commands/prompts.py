"""What the text tower reads of class names: names that look different may be the same to it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from everclip.backbones.base import Backbone
from everclip.errors import ConfigError
from everclip.methods.base import Method
from everclip.types import ClassSet, Samples

log = logging.getLogger("everclip")

MORE = 10_000  # words, more than any model reads
SHOWN = 80  # signs of a caption


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
            if row[-1] and _fills(method.backbone, text, row):
                long.append(text)
        if long:
            log.warning("%d prompts fill or exceed what the model reads; one is %r", len(long), long[0])


def _fills(backbone: Backbone, text: str, row: list[int]) -> bool:
    """Whether a text of these tokens leaves no room for more."""
    return backbone.tokenize([f"{text} and more"])[0].tolist() == row


def warn_of_long_captions(backbone: Backbone, sets: Iterable[Samples]) -> None:
    """Counts the captions of which the model may not read the end.

    A word is at least one token and a byte at most one: of most captions that tells.
    """
    texts = [text for samples in sets for own in samples.texts for text in own]
    if not texts:
        return
    length = backbone.tokenize([" word" * MORE]).shape[1]
    room = length - 2  # start and end of text

    def is_cut(text: str) -> bool:
        words = text.split()
        if len(words) > room or sum(len(word.encode()) for word in words) < room:
            return len(words) > room
        row = backbone.tokenize([text])[0].tolist()
        return len(row) == length and _fills(backbone, text, row)

    cut = [text for text in texts if is_cut(text)]
    if cut:
        shown = cut[0] if len(cut[0]) <= SHOWN else f"{cut[0][:SHOWN]}..."
        log.warning(
            "%s of %s captions fill or exceed the %d tokens that the model reads, which cuts them there; one is %r",
            f"{len(cut):,}", f"{len(texts):,}", length, shown,
        )  # fmt: skip


def warn_of_twins(compared: Iterable[ClassSet]) -> None:
    """Warns of names that several classes of the same templates have, as two of ImageNet in CLIP's words.

    Args:
        compared: sets of classes that samples are compared with.
    """
    groups = (group for classes in compared if len(classes) for _, group in classes.by_templates())
    twins = {name for group in groups for name, count in Counter(group.names).items() if count > 1}
    if twins:
        log.warning("%d names are of several classes, as %r: no text tells those apart", len(twins), min(twins))
