"""Continual image-text retrieval: sessions of image-text pairs, every domain evaluated after every session.

Source: arXiv 2305.07437 (Mod-X: parts of one data set after another), official code ZixuanNi/Mod-X @ a6a2f6c; arXiv
2605.31229 (DAR: one domain after another, and domains that are never trained on).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from everclip.data.captions.own import data_of, find, lists, title_of
from everclip.data.captions.pair_list import Broken, Entry, collect
from everclip.data.captions.samples import Caption, CaptionedData, shown
from everclip.data.images import PICTURES, Form
from everclip.data.pairs import CaptionedImages
from everclip.data.sequences.folder import Share
from everclip.errors import ConfigError, DataError
from everclip.evaluation.rescoring import PairScorer
from everclip.evaluation.retrieval import Retrieval
from everclip.objectives.contrastive import Contrastive
from everclip.types import NO_CLASSES, Positive, Session, Task, TaskSequence

Load = Callable[..., CaptionedData]  # takes `broken`


def domains(
    *,
    name: str,
    domains: Sequence[CaptionedData],
    unseen: Sequence[CaptionedData] = (),
    reverse: bool = False,
    caption: Caption = "drawn",
    scorer: PairScorer | None = None,
    stored: bool = False,
) -> TaskSequence:
    """One session per data set.

    Args:
        name: of the sequence.
        domains: in order of their sessions.
        unseen: judged by alone.
        reverse: the order of the sessions.
        caption: see `shown`; all captions are judged by.
        scorer: see `Retrieval`.
        stored: see `Retrieval`.

    Raises:
        ConfigError: two domains of one name, or none.
        DataError: a domain without training or test pairs.
    """
    return _one_each(name, list(domains)[::-1] if reverse else list(domains), unseen, caption, scorer, stored)


def published(
    *,
    name: str,
    domains: Sequence[Load],
    unseen: Sequence[Load] = (),
    reverse: bool = False,
    caption: Caption = "drawn",
    broken: Broken = "refuse",
    stored: bool = False,
) -> TaskSequence:
    """One session per published data set.

    Args:
        name: see `domains`, as of the next four and `stored`; data sets are yet to be read.
        domains: in order of their sessions.
        unseen: judged by alone.
        reverse: the order of the sessions.
        caption: see `shown`.
        broken: see `collect`.
        stored: see `Retrieval`.

    Raises:
        ConfigError: two domains of one name, or none.
        DataError: a domain that is refused, or without training or test pairs.
    """
    ordered, others = ([load(broken=broken) for load in some] for some in (domains, unseen))
    return _one_each(name, ordered[::-1] if reverse else ordered, others, caption, stored=stored)


def phases(
    *,
    name: str,
    base: Load,
    stream: Load,
    phases: Positive = 5,
    caption: Caption = "drawn",
    broken: Broken = "refuse",
) -> TaskSequence:
    """One data set, then parts of another in the order of its list; judged by the test pairs of both.

    Args:
        name: of the sequence.
        base: of session 0.
        stream: divided into equal parts, one after the other, each a session.
        phases: number of the parts.
        caption: see `shown`; all captions are judged by.
        broken: see `collect`.

    Raises:
        ConfigError: fewer pictures than parts.
        DataError: a data set that is refused, or without training or test pairs.
    """
    first, later = base(broken=broken), stream(broken=broken)
    count = len(later.train)
    if count < phases:
        raise ConfigError(f"sequence.phases={phases}: {later.name} has {count} training pictures")
    sessions = [_session(0, first.name, first.train, caption)]
    for part in range(phases):
        own = later.train.subset(range(count * part // phases, count * (part + 1) // phases))
        sessions.append(_session(part + 1, f"{later.name}_{part + 1}", own, caption))
    tasks = (_task(first, 0), _task(later, 1))
    return TaskSequence(name, tuple(sessions), tasks, "retrieval", evaluate="all")


def pairs(*, dataset: CaptionedData, caption: Caption = "drawn") -> TaskSequence:
    """One session of image-text pairs, for methods that are a stage of training.

    Args:
        dataset: with its split.
        caption: see `shown`; all captions are judged by.

    Raises:
        DataError: no training or test pairs.
    """
    return replace(domains(name="", domains=[dataset], caption=caption), name=f"pairs_{dataset.name}")


def folder(
    *,
    root: str,
    pictures: str | None = None,
    test_share: Share = 0.2,
    test_seed: int = 0,
    caption: Caption = "drawn",
    broken: Broken = "refuse",
    clips: Form | None = None,
    stored: bool = False,
    name: str | None = None,
) -> TaskSequence:
    """One's own pairs: a list whose column `session` says the sessions, or a folder with a list for each session.

    Args:
        root: a list or folder as `everclip.data.captions.own.load` takes it, or a folder of such folders, which are
            sessions in sorted order. Without sessions, all pairs are one.
        pictures: folder that the paths of one list start from; None: the list's own, or a folder of pictures in it.
        test_share: part of each session's pictures that is for testing where the list does not say.
        test_seed: of the choice of these.
        caption: see `shown`; all captions are judged by.
        broken: see `collect`.
        clips: what is made of a file; None: a picture.
        stored: see `Retrieval`.
        name: of the sequence; None: after `root`.

    Raises:
        MissingError: there is no list.
        ConfigError: `pictures` beside several lists.
        DataError: a list that cannot be used, or a session without training or test pairs.
    """
    place = Path(root).expanduser()
    whole = find(place, None if pictures is None else Path(pictures).expanduser(), clips or PICTURES)
    read: list[CaptionedData] = []
    if whole is not None:
        for title, own in _by_session(whole.source, collect(whole, broken)[0], title_of(place)):
            read.append(data_of(title, whole, own, test_share, test_seed, broken))
    else:
        if pictures is not None:
            raise ConfigError(f"sequence.pictures: {place} has a list per session, whose paths start from its folder")
        for title, own_list in lists(place, clips or PICTURES).items():
            entries, _ = collect(own_list, broken)
            read.append(data_of(title, own_list, entries, test_share, test_seed, broken))
    return domains(
        name=name or f"retrieval_folder_{place.resolve().name}", domains=read, caption=caption, stored=stored
    )


def _one_each(
    name: str,
    ordered: Sequence[CaptionedData],
    unseen: Sequence[CaptionedData],
    caption: Caption,
    scorer: PairScorer | None = None,
    stored: bool = False,
) -> TaskSequence:
    """One session per data set, see `domains`."""
    titles = [domain.name for domain in (*ordered, *unseen)]
    if not ordered or len(set(titles)) < len(titles):
        raise ConfigError(f"sequence.domains={titles}: must be one or more, each once")
    sessions = [_session(i, domain.name, domain.train, caption) for i, domain in enumerate(ordered)]
    tasks = [_task(domain, i, scorer, stored) for i, domain in enumerate(ordered)]
    tasks += [_task(domain, None, scorer) for domain in unseen]
    return TaskSequence(name, tuple(sessions), tuple(tasks), "retrieval", evaluate="all")


def _by_session(source: Path, entries: Sequence[Entry], title: str) -> list[tuple[str, list[Entry]]]:
    """The entries of each session: numbers in their order, names as they first come."""
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.session, []).append(entry)
    if list(by_name) == [""]:
        return [(title, list(entries))]
    if bare := by_name.get(""):
        raise DataError(f"{source}: {bare[0].picture} has no session, as others do")
    numbers = all(name.isdecimal() for name in by_name)
    return sorted(by_name.items(), key=lambda item: int(item[0])) if numbers else list(by_name.items())


def _session(index: int, name: str, train: CaptionedImages, caption: Caption) -> Session:
    if not len(train):
        raise DataError(f"{name} has no training pairs")
    return Session(index, name, NO_CLASSES, NO_CLASSES, shown(train, caption), objective=Contrastive())


def _task(domain: CaptionedData, session: int | None, scorer: PairScorer | None = None, stored: bool = False) -> Task:
    if not len(domain.test):
        raise DataError(f"{domain.name} has no test pairs")
    return Task(domain.name, NO_CLASSES, domain.test, Retrieval(scorer, stored), session)
