"""Image-to-image search: what a picture finds among the other pictures of its task, told apart by their labels.

Source of the protocol: arXiv 2111.13122 (GPR1200: every picture is a query, there is no index apart), and 2409.01936
for k; whether the neighbours of the latter are of the same set, as here, or of a training set, was not to be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from everclip.errors import ConfigError
from everclip.metrics.image_search import MAP, NEAREST
from everclip.metrics.scores import Score
from everclip.types import NO_CLASS, ClassSet, Evaluator, Model, Passes, Task, TaskSequence, Verdict

BLOCK = 2**22  # similarities at a time


@dataclass(frozen=True)
class ImageSearch(Evaluator):
    """`image_map` and `knn_accuracy`, in %, of features of length 1; ties count against the query.

    The first is the mean over pictures of the average precision with which those of the same label come before others;
    without pictures that are alone with their label. The second is the share of pictures whose label most of the `k`
    nearest have; where several labels are as frequent, the one whose pictures are nearest.

    Attributes:
        k: neighbours that vote.
    """

    entry = MAP
    k: int = 21

    @property
    @override
    def identity(self) -> str:
        return f"image_search_{self.k}"

    @override
    def evaluate(self, model: Model, task: Task, passes: Passes, seen: Sequence[ClassSet]) -> Verdict:
        features = passes.samples(task.samples, lambda batch: model.encode_image(batch.images), by_features=True).cpu()
        precision, right = search(features, torch.from_numpy(task.samples.labels), self.k)
        found = precision[precision.isfinite()]
        scores = {NEAREST: Score.share(int(right.sum()), len(right))}
        return Verdict(scores | ({MAP: Score(100 * float(found.mean()), len(found))} if len(found) else {}))


def search(features: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Average precision (N,) of each picture's search among all others; whether its `k` nearest tell its label (N,).

    Computed in float64, a block of queries at a time.

    Args:
        features: (N, E) of length 1.
        labels: (N,); the precision of a picture that is alone with its label is NaN.
        k: neighbours that vote; at most all others.
    """
    count = len(features)
    kinds, columns = labels.unique(return_inverse=True)
    values = features.double()
    tie = (features.shape[1] + 4) * torch.finfo(torch.double).eps
    places = torch.arange(1, count, dtype=torch.double)
    precisions, told = [], []
    for own in torch.arange(count).split(max(1, BLOCK // count)):
        same = columns[own, None] == columns
        similar = (values[own] @ values.T).sub_(tie * same)  # of what is equally near, other labels come first
        similar[torch.arange(len(own)), own] = -torch.inf
        nearest = similar.argsort(dim=1, descending=True)[:, :-1]
        hits = same.gather(1, nearest).double()
        precisions.append((hits * hits.cumsum(dim=1) / places).sum(dim=1) / hits.sum(dim=1))
        voters = nearest[:, :k]
        weights = 1 + similar.gather(1, voters) / (4 * k)  # sums of the second part decide between equal counts only
        votes = torch.zeros(len(own), len(kinds), dtype=torch.double).scatter_add_(1, columns[voters], weights)
        mine = votes.gather(1, columns[own, None])
        told.append(((votes >= mine).sum(dim=1) == 1) & (mine[:, 0] > 0))
    return torch.cat(precisions), torch.cat(told)


def with_image_search(sequence: TaskSequence) -> TaskSequence:
    """The sequence with image-to-image search judged besides in every task whose samples all have labels.

    Raises:
        ConfigError: there is no such task.
    """
    tasks = [
        replace(task, also=(*task.also, ImageSearch())) if (task.samples.labels != NO_CLASS).all() else task
        for task in sequence.tasks
    ]
    if not any(task.also for task in tasks):
        raise ConfigError(
            f"image_search=true needs pictures with class labels, which the tasks of {sequence.name} lack"
        )
    return replace(sequence, tasks=tuple(tasks))
