"""What a data set reader gives: pictures with their official split, names and templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from everclip.types import ClassSet, Samples


@dataclass(frozen=True)
class LabelledImages:
    """Labelled pictures with their official split.

    Attributes:
        name: of the data set.
        names: of the classes, label order.
        templates: one text with `{}` or more.
        train: training pictures, labels 0..len(names)-1.
        test: test pictures.
        val: validation pictures where the split has them.
        train_keys: how published lists call each training picture; empty where there are no such lists.
    """

    name: str
    names: tuple[str, ...]
    templates: tuple[str, ...]
    train: Samples
    test: Samples
    train_keys: tuple[str, ...] = ()
    val: Samples | None = None

    def classes(self, templates: Sequence[str] | None = None) -> ClassSet:
        """The classes under their labels, with these templates or the data set's."""
        return ClassSet(tuple(range(len(self.names))), self.names, tuple(templates or self.templates))


def split_lines(*parts: str) -> list[str]:
    """The lines of a published list shipped in `data/splits`."""
    return Path(str(files("everclip")), "data", "splits", *parts).read_text().split("\n")[:-1]
