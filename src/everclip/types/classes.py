"""Classes with their names and texts, and the argument types of configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from itertools import count
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from everclip.digest import json_sha256
from everclip.errors import ConfigError, DataError

Positive = Annotated[int, Field(ge=1)]  # an argument that a configuration must give as at least 1
Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]  # a text with {} once, for the class name
Templates = Annotated[Sequence[Template], Field(min_length=1)]


@dataclass(frozen=True)
class ClassSet:
    """An ordered set of classes with their names and text templates.

    Attributes:
        ids: global class ids, unique; labels are written in these.
        names: one natural-language name per class.
        templates: each with one `{}` for the name; a class's text feature is the mean over its prompts.
        own_templates: the templates of each class where they differ between classes (several domains in one set);
            `templates` are then those of the first class. Empty: all classes share `templates`.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    templates: tuple[str, ...] = ("a photo of a {}.",)
    own_templates: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise ConfigError(f"{len(self.ids)} class ids but {len(self.names)} names")
        if len(set(self.ids)) != len(self.ids):
            raise ConfigError("a class id occurs twice")
        for template in dict.fromkeys((*self.templates, *(t for own in self.own_templates for t in own))):
            if template.count("{}") != 1:
                raise ConfigError(f"the template {template!r} must contain {{}} exactly once, for the class name")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, positions: Sequence[int]) -> ClassSet:
        """The classes at these positions, in this order."""
        ids, names = tuple(self.ids[i] for i in positions), tuple(self.names[i] for i in positions)
        if not self.own_templates:
            return ClassSet(ids, names, self.templates)
        return _class_set(ids, names, tuple(self.own_templates[i] for i in positions))

    @staticmethod
    def union(parts: Sequence[ClassSet]) -> ClassSet:
        """The classes of several sets one after the other, each with the templates it had."""
        own = tuple(t for part in parts for t in part._templates)
        ids, names = (tuple(v for part in parts for v in getattr(part, field)) for field in ("ids", "names"))
        return _class_set(ids, names, own)

    def adopt(self, classes: ClassSet) -> ClassSet:
        """`classes` under the ids that classes of the same name have here; other names get ids that none has here.

        A name that several classes have here means the one of the same templates, else the first.
        """
        known: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
        for class_id, name, own in zip(self.ids, self.names, self._templates, strict=True):
            known.setdefault(name, []).append((class_id, own))
        fresh = count(max(self.ids, default=-1) + 1)
        ids = []
        for name, own in zip(classes.names, classes._templates, strict=True):
            left = sorted(known.get(name, []), key=lambda found: found[1] != own)
            known[name] = left[1:]
            ids.append(left[0][0] if left else next(fresh))
        return replace(classes, ids=tuple(ids))

    def named(self, names: Sequence[str]) -> ClassSet:
        """The classes of these names as they are here; other names with the templates of the first class here."""
        asked = self.adopt(ClassSet(tuple(range(len(names))), tuple(names), self.templates))
        position = {class_id: position for position, class_id in enumerate(self.ids)}
        parts = [asked.select([index]) for index in range(len(asked))]
        return ClassSet.union([self.select([position[p.ids[0]]]) if p.ids[0] in position else p for p in parts])

    @property
    def _templates(self) -> tuple[tuple[str, ...], ...]:
        """The templates of each class."""
        return self.own_templates or (self.templates,) * len(self)

    def by_templates(self) -> list[tuple[list[int], ClassSet]]:
        """The classes grouped by their templates: positions in this set and the group, which shares its templates."""
        if not self.own_templates:
            return [(list(range(len(self))), self)]
        groups: dict[tuple[str, ...], list[int]] = {}
        for position, own in enumerate(self.own_templates):
            groups.setdefault(own, []).append(position)
        return [(positions, self.select(positions)) for positions in groups.values()]

    def prompts(self, template: str) -> list[str]:
        """One text per class."""
        return [template.format(name) for name in self.names]

    def first_prompts(self) -> tuple[str, ...]:
        """One text per class, by the first of its templates."""
        return tuple(own[0].format(name) for own, name in zip(self._templates, self.names, strict=True))

    @cached_property
    def _position(self) -> Tensor:
        table = torch.full((max(self.ids) + 2,), -1, dtype=torch.long)
        table[torch.tensor(self.ids)] = torch.arange(len(self.ids))
        return table

    def columns(self, labels: Tensor) -> Tensor:
        """Position of each global label (B,) in this set, (B,) long.

        Raises:
            DataError: a label is not in the set.
        """
        table = self._position.to(labels.device)
        columns = table[labels.clamp(max=len(table) - 1)]
        if bool((columns < 0).any()):
            missing = sorted(set(labels[columns < 0].tolist()))
            raise DataError(f"labels {missing} are not among the {len(self)} classes asked for")
        return columns


NO_CLASSES = ClassSet((), ())


def _class_set(ids: tuple[int, ...], names: tuple[str, ...], own: tuple[tuple[str, ...], ...]) -> ClassSet:
    """A `ClassSet` in its simplest form: templates that all classes share are not repeated per class."""
    return ClassSet(ids, names, own[0] if own else (), own if len(set(own)) > 1 else ())


@dataclass(frozen=True)
class ClassTexts:
    """Texts of classes beside their names: descriptions, synonyms, attributes.

    Attributes:
        texts: by the name of the class.
        source: the setting they come from, for messages.
    """

    texts: Mapping[str, tuple[str, ...]] = field(repr=False)
    source: str

    def fingerprint(self) -> str:
        """Hex digest of the texts."""
        return json_sha256({name: list(own) for name, own in self.texts.items()})

    def of(self, classes: ClassSet) -> list[tuple[str, ...]]:
        """The texts of each class, in the order of `classes`.

        Raises:
            ConfigError: names the classes that have none, with the most similar names that have.
        """
        missing = [name for name in classes.names if name not in self.texts]
        if missing:
            raise ConfigError(
                f"{self.source} has no texts of {len(missing)} classes: {', '.join(map(self._near, missing[:5]))}"
                f"{', ...' if len(missing) > 5 else ''}; class_texts=file class_texts.path=... gives them"
            )
        return [self.texts[name] for name in classes.names]

    def _near(self, name: str) -> str:
        found = get_close_matches(name, list(self.texts), n=1, cutoff=0.5)
        return f"{name!r} (nearest: {found[0]!r})" if found else repr(name)
