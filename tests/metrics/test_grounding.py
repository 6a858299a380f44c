"""Moments and highlights as QVHighlights' own evaluation measures them."""

from __future__ import annotations

import numpy as np
import pytest

from everclip.metrics.grounding import highlight_scores, moment_scores

# jayleicn/moment_detr @ b7e553a, standalone_eval, run on `queries` one by one (scikit-learn 1.7, two decimals). On its
# own 1,550 validation texts and sample answers all of its figures came out the same as ours.
NAMES = ("r1_iou30", "r1_iou50", "r1_iou70", "map_iou50", "map_iou75", "moment_map", "highlight_map", "hit1")
OFFICIAL = (
    (100.0, 0.0, 0.0, 25.0, 20.0, 14.5, 26.79, 0.0),
    (100.0, 100.0, 0.0, 70.0, 7.14, 18.37, 37.5, 0.0),
    (0.0, 0.0, 0.0, 42.5, 3.7, 7.28, 40.21, 0.0),
    (0.0, 0.0, 0.0, 50.0, 0.0, 5.0, 38.41, 100.0),
    (100.0, 100.0, 100.0, 50.0, 50.0, 45.0, 20.83, 100.0),
    (100.0, 0.0, 0.0, 27.78, 19.05, 14.84, 41.67, 100.0),
)


def queries() -> list[dict[str, float]]:
    stream = np.random.Generator(np.random.PCG64(7))
    scores = []
    for number in range(6):
        count = 1 + number % 3
        right, found = np.sort(stream.random((count, 2)), axis=1), np.sort(stream.random((10, 2)), axis=1)
        found[:count] = np.clip(right + 0.05 * stream.standard_normal((count, 2)), 0, 1)
        found = np.sort(found, axis=1)[stream.permutation(10)]
        judged, saliency = stream.integers(0, 5, (8, 3)), np.round(stream.random(8), 1)  # some are equal
        scores.append(moment_scores(found, right) | highlight_scores(saliency, judged))
    return scores


def test_the_official_figures() -> None:
    for own, official in zip(queries(), OFFICIAL, strict=True):
        assert [own[name] for name in NAMES] == pytest.approx(official, abs=0.0051)


def test_by_hand() -> None:
    right = np.array([[0.0, 0.5], [0.5, 1.0]])
    scores = moment_scores(right, right)
    assert {scores[name] for name in NAMES[:6]} == {100.0}
    scores = moment_scores(np.array([[0.0, 0.5], [0.0, 0.5], [0.5, 1.0]]), right)  # what is found twice counts once
    assert scores["moment_map"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert set(moment_scores(right[:0], right).values()) == {0.0}  # none was found
    judged = np.array([[4, 0], [0, 0], [4, 0]])
    scores = highlight_scores(np.array([0.3, 0.2, 0.1]), judged)
    assert scores == pytest.approx({"highlight_map": 100 * (1 + 2 / 3) / 2 / 2, "hit1": 100})
