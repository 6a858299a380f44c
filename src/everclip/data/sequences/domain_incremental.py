"""Domain-incremental sequences: the same classes session after session, each time in another domain.

Source: arXiv 2207.12819 (S-Prompts), section 4: classes and test candidates are the same throughout; the domain of a
test picture is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from everclip.data.datasets.base import LabelledImages
from everclip.data.sequences.multi_domain import Candidates, check_titles
from everclip.data.sequences.shots import choose_shots
from everclip.errors import ConfigError, DataError
from everclip.evaluation.classification import Classification
from everclip.objectives.classification import Classification as LabelObjective
from everclip.types import ClassSet, Session, Task, TaskSequence


def build(
    name: str,
    domains: Sequence[LabelledImages],
    *,
    shots: int | None = None,
    candidates: Candidates = "union",
    seed: int = 0,
    held_out: Task | None = None,
) -> TaskSequence:
    """The sequence of several domains in this order; every domain is evaluated after every session.

    Args:
        name: of the sequence.
        domains: in order of their sessions; all number and name the same classes, of which one may lack some. Prompts
            have the templates of the first.
        shots: training pictures per class and domain, None for all; a class with fewer gives all it has.
        candidates: what a test picture is compared with: the `union` of all classes, or those of its own `domain`.
        seed: of the choice of shots.
        held_out: classes outside the sequence.

    Raises:
        ConfigError: two domains of one name, or none; other classes.
        DataError: a domain without training or test pictures, or tested on a class that none trains.
    """
    check_titles(domains)
    first = domains[0]
    for domain in domains[1:]:
        if domain.names != first.names:
            raise ConfigError(f"domain {domain.name} does not name the classes as {first.name} does")
    everything = ClassSet(tuple(range(len(first.names))), first.names, first.templates)
    seen: list[int] = []
    sessions, tasks = [], []
    for index, domain in enumerate(domains):
        if not len(domain.train) or not len(domain.test):
            raise DataError(
                f"domain {domain.name} has {len(domain.train)} training and {len(domain.test)} test pictures"
            )
        train = domain.train.subset(choose_shots(domain.train.labels, shots, seed))
        present = sorted(set(train.labels.tolist()))
        again, new = [c for c in present if c in seen], [c for c in present if c not in seen]
        seen += new
        session = Session(
            index, domain.name, everything.select(new), everything.select(seen), train, objective=LabelObjective()
        )
        sessions.append(replace(session, returning=everything.select(again)))
        own = everything.select(sorted(set(domain.test.labels.tolist())))
        compared = everything if candidates == "union" else own
        tasks.append(Task(domain.name, compared, domain.test, Classification("task"), index))
    for domain in domains:
        if untrained := sorted(set(domain.test.labels.tolist()) - set(seen)):
            raise DataError(f"domain {domain.name} is tested on {first.names[untrained[0]]!r}, which none trains")
    return TaskSequence(name, tuple(sessions), tuple(tasks), "domain_incremental", evaluate="all", held_out=held_out)
