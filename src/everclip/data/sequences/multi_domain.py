"""Multi-domain sequences: one session per data set, every domain evaluated after every session.

Source: arXiv 2303.06628 (MTIL: the domain of a test picture is known), arXiv 2406.18868 (X-TAIL: it is not).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from everclip.data.datasets.base import LabelledImages
from everclip.data.images import Relabelled
from everclip.data.sequences.shots import ShotDraw, choose_shots
from everclip.errors import ConfigError
from everclip.evaluation.classification import Classification
from everclip.objectives.classification import Classification as LabelObjective
from everclip.types import (
    ClassSet,
    Positive,
    Session,
    Task,
    TaskSequence,
    Template,
    Templates,
)

Candidates = Literal["domain", "union"]


def check_titles(domains: Sequence[LabelledImages]) -> None:
    """Domains are told apart by their names.

    Raises:
        ConfigError: two of one name, or none.
    """
    titles = [domain.name for domain in domains]
    if not titles or len(set(titles)) < len(titles):
        raise ConfigError(f"sequence.domains={titles}: must be one or more, each once")


def multi_domain(
    *,
    name: str,
    domains: Sequence[LabelledImages],
    shots: Positive | None = None,
    candidates: Candidates = "domain",
    draw: ShotDraw = "seeded",
    templates: Templates | None = None,
    names: Mapping[str, Template] | None = None,
    seed: int = 0,
) -> TaskSequence:
    """One session per data set.

    Args:
        name: of the sequence.
        domains: in order of their sessions, each with its official split.
        shots: training pictures per class, None for all; a class with fewer gives all it has.
        candidates: see `build`.
        draw: see `choose_shots`.
        templates: of the prompts of all domains, None for each data set's own.
        names: how prompts write the names of classes, by data set, for example `{eurosat: "{} satellite location"}`;
            None: as they are.
        seed: of the choice of shots.

    Raises:
        ConfigError: `names` of a data set that is not among the domains.
    """
    titles = [domain.name for domain in domains]
    if unknown := sorted(set(names or ()) - set(titles)):
        raise ConfigError(f"sequence.names: {', '.join(unknown)} is no domain of the sequence; there are: {titles}")
    shown = []
    for domain in domains:
        pattern = (names or {}).get(domain.name, "{}")
        shown.append(replace(domain, templates=tuple(t.format(pattern) for t in templates or domain.templates)))
    return build(name, shown, shots=shots, candidates=candidates, draw=draw, seed=seed)


def build(
    name: str,
    domains: Sequence[LabelledImages],
    *,
    shots: int | None = None,
    candidates: Candidates = "domain",
    draw: ShotDraw = "seeded",
    seed: int = 0,
    held_out: Task | None = None,
) -> TaskSequence:
    """The sequence of several data sets in this order.

    Args:
        name: of the sequence.
        domains: class ids count on from one to the next.
        shots: training pictures per class, None for all of them.
        candidates: what a test picture is compared with: the classes of its own `domain`, or the `union` of all, those
            of later sessions included.
        draw: see `choose_shots`.
        seed: of the choice of shots.
        held_out: classes outside the sequence.

    Raises:
        ConfigError: two domains of one name, or none.
    """
    check_titles(domains)
    classes: list[ClassSet] = []
    for domain in domains:
        first = sum(len(before) for before in classes)
        classes.append(ClassSet(tuple(range(first, first + len(domain.names))), domain.names, domain.templates))
    union = ClassSet.union(classes)
    sessions, tasks = [], []
    for index, (domain, own) in enumerate(zip(domains, classes, strict=True)):
        train = domain.train.subset(choose_shots(domain.train.labels, shots, seed, draw))
        seen = ClassSet.union(classes[: index + 1])
        shifted = Relabelled(train, own.ids)
        sessions.append(Session(index, domain.name, own, seen, shifted, objective=LabelObjective()))
        compared = own if candidates == "domain" else union
        tasks.append(Task(domain.name, compared, Relabelled(domain.test, own.ids), Classification("task"), index))
    return TaskSequence(name, tuple(sessions), tuple(tasks), "multi_domain", evaluate="all", held_out=held_out)
