"""Scores by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A number that a model is judged by.

    Attributes:
        value: in % unless its name says otherwise.
        count: samples behind it.
    """

    value: float
    count: int

    @staticmethod
    def share(right: int, count: int) -> Score:
        """The share of `right` among `count`, in %."""
        return Score(100 * right / count, count)
