"""What the files of a run folder look like, as far as somebody reads them; other keys may hold anything.

A shape says what of a value is not as it should be, nothing of one that is. Figures are bounded such that their sums
are figures too, tasks such that a table of them fits into memory. Plain Python: whoever asks how far runs are would
wait longer for pydantic than for the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[Any], str]
MANY = 2**63 - 1


def text(value: Any) -> str:
    """Of a text."""
    return "" if isinstance(value, str) else "no text"


def mapping(value: Any) -> str:
    """Of a mapping."""
    return "" if isinstance(value, dict) else "no mapping"


def whole(low: int, high: int) -> Shape:
    """Of a whole number within limits."""

    def misfit(value: Any) -> str:
        return "" if type(value) is int and low <= value <= high else f"no whole number from {low} to {high}"

    return misfit


def figure(value: Any) -> str:
    """Of a finite number."""
    return "" if type(value) in (int, float) and -1e18 <= value <= 1e18 else "no figure"


def one_of(*words: str) -> Shape:
    """Of one of some texts."""

    def misfit(value: Any) -> str:
        return "" if isinstance(value, str) and value in words else f"none of {', '.join(words)}"

    return misfit


def maybe(shape: Shape) -> Shape:
    """Of what may be None."""

    def misfit(value: Any) -> str:
        return "" if value is None else shape(value)

    return misfit


def list_of(shape: Shape, length: int | None = None) -> Shape:
    """Of a list, of any length unless one is given."""

    def misfit(value: Any) -> str:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            return "no list" if length is None else f"no list of {length}"
        return next((f"{place}: {wrong}" for place, member in enumerate(value) if (wrong := shape(member))), "")

    return misfit


def dict_of(shape: Shape) -> Shape:
    """Of a mapping from texts."""

    def misfit(value: Any) -> str:
        return mapping(value) or next((f"{key}: {wrong}" for key, own in value.items() if (wrong := shape(own))), "")

    return misfit


def record(parts: Mapping[str, Shape], required: tuple[str, ...] = ()) -> Shape:
    """Of a mapping of which some keys are known; those that are not `required` may be missing."""

    def misfit(value: Any) -> str:
        if wrong := mapping(value) or next((f"{key}: missing" for key in required if key not in value), ""):
            return wrong
        known = ((key, shape(value[key])) for key, shape in parts.items() if key in value)
        return next((f"{key}: {wrong}" for key, wrong in known if wrong), "")

    return misfit


ATTEMPT = record({"start": text, "host": text, "reason": maybe(text)})

# `run.json`; of a run that was refused early it says little.
RUN = record(
    {
        "state": maybe(one_of("running", "preempted", "failed", "finished")),
        **dict.fromkeys(("method", "sequence", "backbone", "digest", "notes", "protocol"), text),
        "seed": whole(-MANY - 1, MANY),
        **dict.fromkeys(("overrides", "command", "tags"), list_of(text)),
        "attempts": list_of(ATTEMPT),
        "sessions": maybe(whole(1, 100_000)),
        "weights": record({"sha256": maybe(text)}),
        "versions": dict_of(maybe(text)),
        **dict.fromkeys(("commit", "id", "fingerprint", "contents", "given", "device", "precision"), maybe(text)),
        "inputs": maybe(list_of(list_of(text, 3))),
        "devices": maybe(whole(0, MANY)),
    }
)

COUNT = whole(1, 2**53 - 1)
SCORES = dict_of(record({"value": figure, "count": COUNT}, required=("value", "count")))
ROW = record(
    {
        "task": whole(0, 99_999),
        "name": text,
        "scores": SCORES,
        "correct": whole(0, MANY),  # with `count`, what older versions wrote instead of scores
        "count": COUNT,
        "predicted": list_of(whole(0, MANY)),
    },
    required=("task",),
)


def task(value: Any) -> str:
    """Of a task's row in a session, which has scores."""
    wrong = ROW(value)
    return wrong or ("" if "scores" in value or {"correct", "count"} <= value.keys() else "no scores")


# A line of `sessions.jsonl`.
SESSION = record(
    {
        "index": whole(0, MANY),
        "name": text,
        "tasks": list_of(task),
        **dict.fromkeys(("train_seconds", "eval_seconds"), figure),
        "eval_images_per_second": maybe(figure),
        **dict.fromkeys(("seen_classes", "train_images", "train_steps"), maybe(whole(0, MANY))),
    },
    required=("index", "tasks"),
)

FIGURES = dict_of(maybe(figure))


def summary(value: Any) -> str:
    """Of `summary.json`: figures, and lists of them per session."""
    if wrong := mapping(value):
        return wrong
    curves = {key for key in value if key.endswith("_per_session")}
    return record({key: list_of(figure) if key in curves else maybe(figure) for key in value})(value)
