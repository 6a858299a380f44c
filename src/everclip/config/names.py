"""What a run is called: by its choices and by the settings of its command that can change a result."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from everclip.config.schema import GROUPS, INJECTED

# By the run folder's own names, which every name of a run begins with.
SHOWN = ("method", "backbone", "sequence", "sequence.name", "sequence.root", "sequence.file", "sequence/dataset")


def changes_results(override: str) -> bool:
    """Whether an override sets what `identity.digest` covers."""
    key = re.split(r"[=@]", override.lstrip("+~"))[0]
    return key == "trainer.precision" or re.split(r"[./]", key)[0] in (
        *GROUPS, *INJECTED, "train", "max_sessions", "validation", "image_search", "limit", "overfit",
    )  # fmt: skip


def tells_apart(word: str) -> bool:
    """Whether an override can change a result, and is not one of the choices that every name shows."""
    key = word.lstrip("+~").partition("=")[0]
    return key not in SHOWN and (changes_results(word) or key in ("experiment", "debug"))


def settings_of(words: Iterable[str]) -> list[str]:
    """`lr=0.1`, `shots=5`: the overrides that tell runs apart, sorted, whole keys only where two end alike."""
    pairs = sorted({(key, value) for key, _, value in (w.lstrip("+~").partition("=") for w in words if tells_apart(w))})
    ends = Counter(key.rpartition(".")[2] for key, _ in pairs)
    return [f"{end if ends[end := key.rpartition('.')[2]] == 1 else key}={value}" for key, value in pairs]


def fitted(name: str, limit: int, mark: str) -> str:
    """A name of at most so many signs; where its end is cut off, `mark` keeps it apart from others."""
    return name if len(name) <= limit else f"{name[: limit - len(mark) - 1]}-{mark}"
