"""What of a file in a run folder is not as it should be is found, and named by its place."""

from __future__ import annotations

import math
from typing import Any

import pytest

from everclip.runs import shapes

SCORE = {"value": 50.0, "count": 2}
TASK = {"task": 0, "scores": {"accuracy": SCORE}}


def test_a_refused_run_says_little_and_others_may_say_more() -> None:
    assert shapes.RUN({}) == shapes.RUN({"state": "failed", "seed": -3, "of a later version": [object()]}) == ""
    assert shapes.RUN({"versions": {"torch": None}, "inputs": [["a", "b", "c"]], "weights": {}}) == ""


def test_scores_of_old_and_new_versions_are_known() -> None:
    assert shapes.SESSION({"index": 0, "tasks": [TASK, {"task": 1, "correct": 1, "count": 2}]}) == ""


def test_summaries_hold_figures_and_curves() -> None:
    assert shapes.summary({"last_accuracy": 50, "forgetting": None, "accuracy_per_session": [50.0, 1]}) == ""


@pytest.mark.parametrize(
    ("shape", "value", "misfit"),
    [
        (shapes.RUN, [], "no mapping"),
        (shapes.RUN, {"state": "done"}, "state: none of running, preempted, failed, finished"),
        (shapes.RUN, {"seed": True}, "seed: no whole number"),
        (shapes.RUN, {"seed": 2**63}, "seed: no whole number"),
        (shapes.RUN, {"method": None}, "method: no text"),
        (shapes.RUN, {"overrides": ["seed=1", 2]}, "overrides: 1: no text"),
        (shapes.RUN, {"overrides": "seed=1"}, "overrides: no list"),
        (shapes.RUN, {"attempts": [{"host": 1}]}, "attempts: 0: host: no text"),
        (shapes.RUN, {"versions": []}, "versions: no mapping"),
        (shapes.RUN, {"inputs": [["a", "b"]]}, "inputs: 0: no list of 3"),
        (shapes.SESSION, {"tasks": []}, "index: missing"),
        (shapes.SESSION, {"index": 0.0, "tasks": []}, "index: no whole number"),
        (shapes.SESSION, {"index": 0, "tasks": [{"task": 0, "count": 2}]}, "tasks: 0: no scores"),
        (shapes.SESSION, {"index": 0, "tasks": [{"task": 100_000}]}, "tasks: 0: task: no whole number"),
        (
            shapes.SESSION,
            {"index": 0, "tasks": [TASK, TASK | {"scores": {"accuracy": SCORE | {"count": 0}}}]},
            "tasks: 1: scores: accuracy: count: no whole number",
        ),
        (shapes.SESSION, {"index": 0, "tasks": [], "train_seconds": None}, "train_seconds: no figure"),
        (shapes.summary, None, "no mapping"),
        (shapes.summary, {"last_accuracy": math.nan}, "last_accuracy: no figure"),
        (shapes.summary, {"last_accuracy": 10**400}, "last_accuracy: no figure"),
        (shapes.summary, {"last_accuracy": [1.0]}, "last_accuracy: no figure"),
        (shapes.summary, {"accuracy_per_session": None}, "accuracy_per_session: no list"),
        (shapes.summary, {"accuracy_per_session": [1.0, None]}, "accuracy_per_session: 1: no figure"),
        (shapes.FIGURES, {"accuracy": "50"}, "accuracy: no figure"),
    ],
)
def test_what_does_not_fit_is_named(shape: shapes.Shape, value: Any, misfit: str) -> None:
    assert shape(value).startswith(misfit)
