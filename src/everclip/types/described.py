"""What is where in pictures and what texts speak of, where that is known beside image-text pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the upright picture; all four are inside


class Region(NamedTuple):
    """A part of a picture: the phrase that says what is there, and its box."""

    phrase: str
    box: Box


class Relation(NamedTuple):
    """How two entities are connected: keys of `Parse.entities`, None where a text names none."""

    subject: str | None
    verb: str
    object: str | None


@dataclass(frozen=True)
class Parse:
    """What a text speaks of.

    Attributes:
        entities: what is said of each, its name included (`young person`), by its name (`person`).
        relations: between them.
    """

    entities: Mapping[str, str]
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True)
class Described:
    """Annotations of samples.

    Attributes:
        regions: of every picture; none where nothing is known.
        parses: by text; one without a parse has none.
    """

    regions: tuple[tuple[Region, ...], ...] = field(repr=False)
    parses: Mapping[str, Parse] = field(repr=False)

    def subset(self, indices: Iterable[int]) -> Described:
        """Those of these samples."""
        return Described(tuple(self.regions[i] for i in indices), self.parses)

    def facts(self) -> list[object]:
        """All of it as JSON-like facts, for fingerprints."""
        parses = sorted((text, dict(parse.entities), parse.relations) for text, parse in self.parses.items())
        return [self.regions, parses]
