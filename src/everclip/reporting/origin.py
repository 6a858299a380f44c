"""What runs of the same settings must have in common for their figures to be averaged."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everclip.reporting.results import Result


LATER = ("contents", "texts")  # compared only among runs that say them; older versions did not


def differences(results: Sequence[Result]) -> list[str]:
    """By result, in what data, weights, code or number of sessions tell it from others of its digest; often nothing."""
    by_digest: dict[str, list[int]] = defaultdict(list)
    for position, result in enumerate(results):
        if result.curve:  # others are averaged with nothing
            by_digest[str(result.run["digest"])].append(position)
    words = [""] * len(results)
    for positions in by_digest.values():
        facts = [origin_of(results[position]) for position in positions]
        every = dict.fromkeys(name for own in facts for name in own)
        names = [
            name for name in every if len({own.get(name) for own in facts if name in own or name not in LATER}) > 1
        ]
        if follows_seed([results[position] for position in positions]):
            names = [name for name in names if name not in ("data", "contents")]
        for position, own in zip(positions, facts, strict=True):
            words[position] = ", ".join(f"{name} {own.get(name)}" for name in names)
    return words


def follows_seed(results: Sequence[Result]) -> bool:
    """Whether the data of runs of one digest differ only where their seed does: it may follow the run's."""
    data: dict[str, set[str]] = defaultdict(set)
    for result in results:
        data[data_seed(result.folder)].add(str(result.run.get("fingerprint")))
    return len(data) > 1 and all(len(own) == 1 for own in data.values())


def data_seed(folder: Path) -> str:
    """The seed of a run's data by its `config.yaml`, which is read as text only; empty where it says none."""
    with suppress(OSError):
        text = (folder / "config.yaml").read_text(errors="replace")
        if found := re.search(r"^sequence:\n(?:[ -].*\n)*?  seed: (\d+)$", text, re.MULTILINE):
            return found[1]
    return ""


def origin_of(result: Result) -> dict[str, str]:
    """What a result was made from, by name, hashes in short."""
    run = result.run
    facts = {
        "data": run.get("fingerprint"),
        "contents": run.get("contents"),
        "texts": run.get("given"),
        "weights": (run.get("weights") or {}).get("sha256"),
        "commit": run.get("commit"),
        "precision": run.get("precision"),
        "sessions": len(result.curve),
        **(run.get("versions") or {}),
    }
    known = {name: str(value) for name, value in facts.items() if value is not None or name not in LATER}
    return {name: re.sub("[0-9a-f]{40,}", lambda found: found[0][:8], value) for name, value in known.items()}
