"""Errors that a user can cause or meet, each with the exit code of its kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class EverclipError(Exception):
    """An error shown as one or two lines with its remedy, without a traceback."""

    exit_code = 1


class ConfigError(EverclipError):
    """A setting that cannot be: unknown, of the wrong type, or impossible."""

    exit_code = 2


class MissingError(EverclipError):
    """Data or weights that are not where they are expected."""

    exit_code = 2


class DataError(EverclipError):
    """Data that are there but cannot be used as they are."""

    exit_code = 2


class DataAccessError(EverclipError):
    """A method read data that its declaration (`Method.sees`) does not allow."""


class ContractError(EverclipError):
    """A method gave what `everclip.methods.base.Method` does not allow."""


class NotFiniteError(EverclipError):
    """A loss, gradient, weight, feature or logit became NaN or infinite."""


class LoaderError(EverclipError):
    """A process that loads pictures died."""


class MemoryFullError(EverclipError):
    """The device's memory does not hold what was asked for."""


class StorageError(EverclipError):
    """A file that could not be written: disk full, no permission."""


class PeerLostError(EverclipError):
    """Another process of a parallel run is gone."""


class LockedError(EverclipError):
    """Another process works in the run folder."""

    exit_code = 3


class Preempted(BaseException):
    """The run was asked to stop (a signal); derives from BaseException so that nothing swallows it."""

    exit_code = 75


def behind(error: BaseException | None, *kinds: type[E]) -> E | None:
    """The first of some kinds among an error and what it followed from.

    A `Preempted` may come up inside anything, and be replaced there: Python 3.11 raises RuntimeError for what happens
    while a class is made.
    """
    seen = set[int]()  # errors may follow from each other in a circle
    while error is not None and not isinstance(error, kinds):
        seen.add(id(error))
        error = error.__cause__ or error.__context__
        error = None if id(error) in seen else error
    return error


def nearest(name: str, names: Iterable[str], cutoff: float = 0.55) -> str:
    """`; did you mean X?` for the most similar of `names` (of a mapping: what it stands for), empty if none is."""
    import difflib  # which only a mistake waits for

    found = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    shown = [names[key] if isinstance(names, Mapping) else key for key in found]
    return f"; did you mean {shown[0]}?" if shown else ""
