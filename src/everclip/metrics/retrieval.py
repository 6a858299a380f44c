"""Image-text retrieval over domains: recall at 1, 5, 10 from images to texts (i2t) and back (t2i), and why it is so.

Task j is the domain of session j; tasks beyond the last session are of domains that no session trains for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from everclip.metrics.matrix import Matrix, backward_transfer, per_task_metrics, session_accuracy
from everclip.metrics.multi_domain import multi_domain_metrics
from everclip.metrics.protocol import Measure, Protocol
from everclip.metrics.scores import ScoreTable

ENTRY = "mean_recall"
WAYS = ("i2t", "t2i")
RANKS = (1, 5, 10)
RECALLS = tuple(f"{way}_r{k}" for way in WAYS for k in RANKS)
BESIDE = (*(f"{way}_{name}" for way in WAYS for name in ("mrr", "median_rank")), "r_sum")
STORED = (*(f"stored_t2i_r{k}" for k in RANKS), "stored_t2i_mean_rank")  # among the pictures of all sessions so far
OWN_STORED = "own_stored_t2i_r1"  # among those of the text's own session
UNSEEN = (ENTRY, "i2t_r1", "t2i_r1")  # what is told of domains that were not trained for so far
DIAGNOSTICS = (
    Measure("last_modality_gap", "modality gap", "", 3),
    Measure("last_alignment", "alignment", "low", 3),
    Measure("last_uniformity", "uniformity", "low", 3),
    Measure("last_cross_cka", "CKA images, texts", "high", 3),
    Measure("last_image_cka", "CKA images, start", "", 3),
    Measure("last_text_cka", "CKA texts, start", "", 3),
    Measure("last_neighbour_overlap", "neighbours kept", ""),
)


def session_numbers(table: ScoreTable) -> dict[str, float | None]:
    """Every score as mean over the domains seen so far; `unseen_<score>` over the others, None if there are none.

    Of searches among stored pictures the mean is over all texts.
    """
    seen, others = range(table.latest + 1), range(table.latest + 1, table.num_tasks)
    numbers = {name: (table.pooled if name in STORED else table.mean)(name, seen) for name in table.names}
    return numbers | {f"unseen_{name}": table.mean(name, others) for name in UNSEEN}


def summary(table: ScoreTable) -> dict[str, float]:
    """What follows from the scores of all sessions so far.

    Of mean recall `per_task_metrics` and `multi_domain_metrics`. Of each recall and rank `average_<score>` and
    `last_<score>`, defined as in the former: `average_i2t_r1` is the average incremental recall (AIR) of arXiv
    2605.31229, `last_i2t_r1` its average final recall. `asymmetry_r5`, the mean over domains of |i2t - t2i|, is its gap
    at 5. Of diagnostics `last_<score>`; `unseen_<recall>` after the last session. Of searches among stored pictures
    `last_<score>`, `average_stored_t2i_r1` over sessions, and `stored_forgetting`: of each session but the last, R@1
    among its own pictures after it minus after the last.
    """
    sessions = len(table)

    def entries(name: str) -> Matrix:
        return table.matrix(name)[:, :sessions]

    numbers = per_task_metrics(ENTRY, entries(ENTRY)) | multi_domain_metrics(entries(ENTRY))
    for name in _complete(table, (*RECALLS, *BESIDE)):
        of_score = per_task_metrics(name, entries(name))
        numbers |= {key: value for key, value in of_score.items() if key.endswith(name)}
    numbers["asymmetry_r5"] = float(np.abs(entries("i2t_r5")[-1] - entries("t2i_r5")[-1]).mean())
    latest = session_numbers(table)
    told = {measure.key: latest.get(measure.key.removeprefix("last_")) for measure in DIAGNOSTICS}
    told |= {f"last_{name}": latest.get(name) for name in STORED}
    if STORED[0] in latest:
        of_sessions = session_accuracy(entries(STORED[0]), table.task_counts(STORED[0]))
        told["average_stored_t2i_r1"] = float(of_sessions.mean())
        if sessions > 1:
            told["stored_forgetting"] = -float(backward_transfer(entries(OWN_STORED)).mean())
    told |= {key: value for key, value in latest.items() if key.startswith("unseen_")}
    return numbers | {key: value for key, value in told.items() if value is not None}


def _complete(table: ScoreTable, names: Iterable[str]) -> Iterator[str]:
    """Those of some scores that all sessions have; earlier versions measured fewer."""
    for name in names:
        if all(np.isfinite(row[: session + 1]).all() for session, row in enumerate(table.matrix(name))):
            yield name


PROTOCOL = Protocol(
    name="retrieval",
    entry=ENTRY,
    title="mean recall over all seen domains (%)",
    session=session_numbers,
    summary=summary,
    line=(
        Measure(ENTRY, "mean recall"),
        Measure("i2t_r1", "i2t R@1"),
        Measure("t2i_r1", "t2i R@1"),
    ),
    columns=(
        Measure(f"average_{ENTRY}", "average"),
        Measure("last_i2t_r1", "i2t R@1"),
        Measure("last_t2i_r1", "t2i R@1"),
        Measure("forgetting", "forgetting", ""),
    ),
    details=(
        *(Measure(f"last_{name}", f"{name[:3]} R@{name[5:]}") for name in RECALLS if not name.endswith("_r1")),
        *(Measure(f"last_{way}_mrr", f"{way} MRR") for way in WAYS),
        *(Measure(f"last_{way}_median_rank", f"{way} median rank", "low", 1) for way in WAYS),
        *(Measure(f"last_stored_t2i_r{k}", f"stored t2i R@{k}") for k in RANKS),
        Measure("last_stored_t2i_mean_rank", "stored t2i mean rank", "low", 1),
        Measure("stored_forgetting", "stored forgetting", ""),
        Measure("last_r_sum", "R-sum", digits=1),
        *(Measure(f"average_{way}_r1", f"AIR {way} R@1") for way in WAYS),
        Measure("asymmetry_r5", "asymmetry", "low"),
        Measure("transfer", "transfer"),
        Measure("backward_transfer", "backward transfer", ""),
        *(Measure(f"unseen_{way}_r1", f"unseen domains {way} R@1") for way in WAYS),
    ),
    diagnostics=DIAGNOSTICS,
)
