"""Texts of classes beside their names (descriptions, synonyms, attributes), for methods that ask for them."""

from __future__ import annotations

import json
from pathlib import Path

from everclip.data.drawing import shapes
from everclip.data.files import read_bytes
from everclip.errors import DataError, MissingError
from everclip.types import ClassTexts

# Words that mean the same, for every word of a class name.
SYNONYMS = {
    "red": "crimson", "orange": "amber", "yellow": "golden", "green": "emerald", "cyan": "turquoise", "blue": "azure",
    "purple": "violet", "pink": "rosy", "brown": "chestnut", "gray": "ashen",
    "circle": "disc", "square": "box", "triangle": "three-sided figure", "star": "five-pointed figure",
    "cross": "plus sign", "heart": "love symbol", "diamond": "rhombus", "ring": "hoop", "hexagon": "six-sided figure",
    "crescent": "sickle moon",
    "plain": "uniform", "striped": "banded", "dotted": "spotted", "checkered": "chequered", "outlined": "bordered",
}  # fmt: skip


def none() -> ClassTexts:
    """No texts of any class."""
    return ClassTexts({}, "class_texts=none")


def file(*, path: str) -> ClassTexts:
    """The texts of a JSON file.

    Args:
        path: of a file that holds {class name: [texts]}, each with a text at least.

    Raises:
        MissingError: the file is not there.
        DataError: it holds something else.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise MissingError(f"class_texts.path={path}: no such file; give a JSON file with {{class name: [texts]}}")
    try:
        content = json.loads(read_bytes(place))
    except (ValueError, RecursionError) as error:
        raise DataError(f"class_texts.path={path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"class_texts.path={path} holds no mapping; expected {{class name: [texts]}}")
    for name, texts in content.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise DataError(f"class_texts.path={path}: {name!r} has {texts!r}, expected a list of texts")
    return ClassTexts({name: tuple(texts) for name, texts in content.items()}, f"class_texts.path={path}")


def drawn_shapes() -> ClassTexts:
    """A synonym and a description of every class of the procedural generator."""
    texts = {}
    for name in shapes.all_class_names():
        texture, colour, shape = name.split()
        synonym = " ".join(SYNONYMS[word] for word in (texture, colour, shape))
        texts[name] = (synonym, f"a {shape} that is {colour} and {texture}")
    return ClassTexts(texts, "class_texts=shapes")
