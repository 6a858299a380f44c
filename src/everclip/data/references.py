"""Reference sets: pictures and texts from outside the sequence, on which a method compares two models.

Source: arXiv 2303.06628 section 3.1, which takes ImageNet's pictures and the captions of Conceptual Captions.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TextIO

import numpy as np

from everclip.data.drawing import shapes
from everclip.data.images import PICTURES, ArrayImages, FileImages
from everclip.data.sequences.shapes import draw
from everclip.errors import ConfigError, DataError, MissingError
from everclip.types import Positive, Reference, Templates


def none() -> Reference:
    """No pictures and no texts."""
    return Reference(ArrayImages(np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, np.int64), "none"), ())


def drawn_shapes(
    *,
    cache_dir: str,
    num_classes: Positive = 380,
    per_class: Positive = 2,
    style: str = "cards",
    templates: Templates = ("a photo of a {}.",),
    seed: int = 0,
) -> Reference:
    """Procedural pictures and captions of the classes that no embedded sequence has, not even as held-out classes.

    Args:
        cache_dir: where drawn pictures are kept.
        num_classes: how many of the 380 classes to use, the first ones.
        per_class: pictures per class.
        style: rendering style, a key of `everclip.data.drawing.shapes.STYLES`.
        templates: one text per class and template.
        seed: of the pictures.

    Raises:
        ConfigError: an unknown style, or more classes than there are.
    """
    if style not in shapes.STYLES:
        raise ConfigError(f"reference.style={style}: must be one of {', '.join(shapes.STYLES)}")
    names = shapes.all_class_names()[shapes.PRETRAINING_CLASSES]
    if num_classes > len(names):
        raise ConfigError(f"reference.num_classes={num_classes}: there are {len(names)} outside the sequences")
    names = names[:num_classes]
    images = draw(names, per_class, seed=seed, split=2, style=style, cache=Path(cache_dir))
    texts = tuple(template.format(name) for template in templates for name in names)
    return Reference(images, texts, tuple(names[label] for label in images.labels))


def folder(
    *,
    root: str,
    captions: str | None = None,
    column: str = "caption",
    max_images: Positive | None = None,
    max_texts: Positive | None = None,
    templates: Templates = ("a photo of a {}.",),
) -> Reference:
    """Pictures of a folder and all folders in it, with the texts of a file or of the folders' names.

    Args:
        root: holds the pictures.
        captions: a `.txt` file with one text per line, or a `.csv` or `.tsv` file whose first line names its columns;
            None: the name of every folder that holds pictures, with spaces for underscores and hyphens, in `templates`.
        column: of a `.csv` or `.tsv` file.
        max_images: use only so many pictures, evenly spaced over the sorted paths; None for all.
        max_texts: the same for texts.
        templates: used without `captions`.

    Raises:
        MissingError: `root` or `captions` is not there.
        DataError: no pictures, no texts, or no such column.
    """
    top = Path(root).expanduser()
    if not top.is_dir():
        raise MissingError(f"reference.root={root}: no such folder; give one that holds pictures")
    files = sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(top, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in PICTURES.suffixes
    )
    if not files:
        raise DataError(f"reference.root={root} holds no pictures ({', '.join(PICTURES.suffixes)})")
    if captions is None:
        names = dict.fromkeys(_shown(file) for file in files)
        texts = [template.format(name) for template in templates for name in names]
    else:
        texts = _read_texts(Path(captions).expanduser(), column)
    chosen = _spaced(files, max_images)
    images = FileImages([Path(file) for file in chosen], np.zeros(len(chosen), np.int64), top)
    return Reference(images, tuple(_spaced(texts, max_texts)), tuple(map(_shown, chosen)))


def _shown(file: str) -> str:
    """What the folder of a picture says it shows."""
    return os.path.basename(os.path.dirname(file)).replace("_", " ").replace("-", " ")


def _spaced(items: list[str], count: int | None) -> list[str]:
    """At most `count` of the items, evenly spaced from the first on."""
    if count is None or count >= len(items):
        return items
    return [items[len(items) * i // count] for i in range(count)]


def _read_texts(path: Path, column: str) -> list[str]:
    """The texts of a caption file, without empty ones.

    Raises:
        MissingError: the file is not there.
        DataError: it has no such column, or no text.
    """
    if not path.is_file():
        raise MissingError(f"reference.captions={path}: no such file; give a .txt, .csv or .tsv file with captions")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            texts = _cells(path, file, column) if path.suffix in (".csv", ".tsv") else file.read().splitlines()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"reference.captions={path} cannot be read: {error}") from error
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise DataError(f"{path} holds no captions")
    return texts


def _cells(path: Path, file: TextIO, column: str) -> list[str]:
    """What a table has in a column, "" where a line is too short."""
    delimiter = "\t" if "\t" in file.readline() else ","  # the file of the official code is tabbed .csv
    file.seek(0)
    rows = csv.DictReader(file, delimiter=delimiter)
    columns = rows.fieldnames or []
    if column not in columns:
        raise DataError(f"{path} has no column {column}; it has {', '.join(columns)}; set reference.column")
    return [row[column] or "" for row in rows]
