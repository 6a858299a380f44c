"""Correct pictures behind a recorded accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everclip.runs.scores import scores_of


def correct(row: Mapping[str, Any]) -> int:
    """Of a task's row in a session's record."""
    accuracy = scores_of(row)["accuracy"]
    return round(accuracy.value * accuracy.count / 100)
