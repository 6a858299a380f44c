"""Finding the moments of clips that a text speaks of, and what in them stands out; all in %.

Source: arXiv 2107.09609 (jayleicn/moment_detr, standalone_eval): each text's average precision over the intersections
0.5, 0.55, ... 0.95, precision interpolated; what stands out is what an annotator calls very good, each annotator by
themselves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everclip.metrics.matrix import per_task_summary
from everclip.metrics.protocol import Measure, Protocol
from everclip.metrics.scores import ScoreTable, seen_means

ENTRY = "moment_map"
SHARES = (0.3, 0.5, 0.7)
OTHERS = ("r1_iou30", "r1_iou50", "r1_iou70", "miou", "map_iou50", "map_iou75", "highlight_map", "hit1")
THRESHOLDS = np.linspace(0.5, 0.95, 10)
VERY_GOOD = 4  # of 0 to 4

Numbers = NDArray[np.float64]


def intersections(found: Numbers, right: Numbers) -> Numbers:
    """Intersection over union (K, M) of moments (K, 2) and (M, 2), each from a start to an end."""
    shared = np.minimum(found[:, None, 1], right[None, :, 1]) - np.maximum(found[:, None, 0], right[None, :, 0])
    shared = shared.clip(min=0)
    whole = (found[:, 1] - found[:, 0])[:, None] + (right[:, 1] - right[:, 0])[None] - shared
    shares: Numbers = shared / np.maximum(whole, 1e-12)
    return shares


def moment_precision(shares: Numbers, threshold: float) -> float:
    """Average precision of moments, best first, by their intersections (K, M) with the right ones, each found once."""
    taken = np.zeros(shares.shape[1], dtype=bool)
    hits = np.zeros(len(shares), dtype=bool)
    for number, own in enumerate(shares):
        free = [match for match in np.flatnonzero(own >= threshold) if not taken[match]]
        if free:
            taken[max(free, key=own.__getitem__)] = hits[number] = True
    return float(_interpolated(hits.cumsum(), np.arange(1, len(hits) + 1))[hits].sum() / len(taken))


def highlight_precision(saliency: Numbers, good: NDArray[np.bool_]) -> float:
    """Average precision of the parts of a clip (T,) by their saliency; equal ones come at once, as one recall."""
    if not good.any():
        return 0.0
    last = np.flatnonzero(np.diff(np.sort(-saliency), append=np.inf))  # of those of the same saliency
    found = good[np.argsort(-saliency, kind="stable")].cumsum()[last]
    return float(_interpolated(found, last + 1)[np.diff(found, prepend=0) > 0].mean())


def _interpolated(found: NDArray[np.int64], given: NDArray[np.int64]) -> Numbers:
    """The best precision at each recall or more, where so many of so many given are right."""
    best: Numbers = np.maximum.accumulate((found / given)[::-1])[::-1]
    return best


def moment_scores(found: Numbers, right: Numbers) -> dict[str, float]:
    """How moments (K, 2), best first, fit the right ones (M, 2)."""
    shares = intersections(found, right)
    best = float(shares[0].max()) if len(shares) else 0.0
    precisions = [moment_precision(shares, threshold) for threshold in THRESHOLDS]
    scores = {f"r1_iou{share * 100:.0f}": 100.0 * (best >= share) for share in SHARES}
    scores |= {"miou": 100 * best, "map_iou50": 100 * precisions[0], "map_iou75": 100 * precisions[5]}
    return scores | {ENTRY: 100 * float(np.mean(precisions))}


def highlight_scores(saliency: Numbers, judged: NDArray[np.int64]) -> dict[str, float]:
    """How well saliency (T,) orders the parts of a clip by what each annotator says of them (T, A), 0 to 4."""
    good = judged >= VERY_GOOD
    precisions = [highlight_precision(saliency, own) for own in good.T]
    return {"highlight_map": 100 * float(np.mean(precisions)), "hit1": 100.0 * bool(good[saliency.argmax()].any())}


def session_numbers(table: ScoreTable) -> dict[str, float | None]:
    """Each score as the mean over the tasks seen so far."""
    return seen_means(table, (ENTRY, *OTHERS))


def summary(table: ScoreTable) -> dict[str, float]:
    """`per_task_metrics` of the moments' mAP; of the others `average_<name>` and `last_<name>`, defined as there."""
    return per_task_summary(table, ENTRY, OTHERS)


PROTOCOL = Protocol(
    name="grounding",
    entry=ENTRY,
    title="mAP of moments, mean over all seen tasks (%)",
    session=session_numbers,
    summary=summary,
    line=(Measure(ENTRY, "mAP"), Measure("r1_iou50", "R1@0.5"), Measure("hit1", "HIT@1")),
    columns=(
        Measure(f"average_{ENTRY}", "average mAP"),
        Measure("last_r1_iou50", "R1@0.5"),
        Measure("last_r1_iou70", "R1@0.7"),
        Measure("last_hit1", "HIT@1"),
        Measure("forgetting", "forgetting", ""),
    ),
    details=(
        Measure("last_r1_iou30", "R1@0.3"),
        Measure("last_miou", "mIoU"),
        Measure("last_map_iou50", "mAP@0.5"),
        Measure("last_map_iou75", "mAP@0.75"),
        Measure("last_highlight_map", "highlights mAP"),
    ),
)
