"""Finding the moments of clips that texts speak of: one session per data set, all judged after each.

Source of the task: arXiv 2107.09609; in sessions: of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from everclip.data.captions.pair_list import Broken
from everclip.data.datasets.moment_lists import read_moments
from everclip.data.grounded import GroundedClips, GroundedData
from everclip.data.images import FileImages, Form
from everclip.data.sequences.own_pictures import readable
from everclip.errors import ConfigError, DataError, MissingError
from everclip.evaluation.grounding import Grounding
from everclip.objectives.grounding import Grounding as MomentObjective
from everclip.types import NO_CLASSES, Session, Task, TaskSequence


def domains(*, name: str, domains: Sequence[GroundedData]) -> TaskSequence:
    """One session per data set.

    Args:
        name: of the sequence.
        domains: in order of their sessions.

    Raises:
        ConfigError: two domains of one name, or none.
    """
    titles = [domain.name for domain in domains]
    if not titles or len(set(titles)) < len(titles):
        raise ConfigError(f"sequence.domains={titles}: must be one or more, each once")
    sessions = [
        Session(index, domain.name, NO_CLASSES, NO_CLASSES, domain.train, objective=MomentObjective())
        for index, domain in enumerate(domains)
    ]
    tasks = [Task(domain.name, NO_CLASSES, domain.test, Grounding(), index) for index, domain in enumerate(domains)]
    return TaskSequence(name, tuple(sessions), tuple(tasks), "grounding", evaluate="all")


def dataset(*, data: GroundedData) -> TaskSequence:
    """One session.

    Args:
        data: with its split.
    """
    return domains(name=f"grounding_{data.name}", domains=[data])


def folder(
    *,
    root: str,
    clips: Form,
    unit: Annotated[float, Field(gt=0)] = 2.0,
    broken: Broken = "refuse",
    name: str | None = None,
) -> TaskSequence:
    """One's own: `root/train.jsonl` and `root/test.jsonl` in the form of QVHighlights, clips anywhere below `root`.

    Args:
        root: the folder.
        clips: how files become clips.
        unit: seconds of a judged part.
        broken: what is done where files are damaged, see `readable`.
        name: of the sequence; None: after `root`.

    Raises:
        MissingError: a list or clip is not there.
        DataError: a list of another form, damaged files.
    """
    return dataset(data=read_folder(Path(root).expanduser(), clips, unit, broken, name))


def read_folder(
    place: Path, clips: Form, unit: float, broken: Broken = "refuse", name: str | None = None
) -> GroundedData:
    """The lists of a folder as data; arguments and errors as in `folder`."""
    for part in ("train", "test"):
        if not (place / f"{part}.jsonl").is_file():
            raise MissingError(f"{place / part}.jsonl is not there; expected train.jsonl and test.jsonl in {place}")
    train, test = (read_moments(place / f"{part}.jsonl", place, clips, unit) for part in ("train", "test"))
    kept = readable([*_paths(train), *_paths(test)], clips, broken)
    own, judged = ([index for index in kept if (index < len(train)) == first] for first in (True, False))
    if not own or not judged:
        raise DataError(f"{place} has no training or no test clip that is not damaged")
    test = test.subset([index - len(train) for index in judged])
    return GroundedData(name or place.resolve().name, train.subset(own), test)


def _paths(part: GroundedClips) -> Sequence[Path]:
    return part.pictures.paths if isinstance(part.pictures, FileImages) else ()
