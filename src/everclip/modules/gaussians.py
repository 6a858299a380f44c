"""Gaussians of classes that share their covariance, from sums alone: data may come in any parts and order.

E: width of the features, C: number of classes. All in float64.

Source: arXiv 2402.04087 (mrflogs/ICLR24 @ 560fe21, main_few_shots.py, main_base2new.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["pooled", "mean"]


class ClassGaussians(nn.Module):
    """Means of classes, and what their common covariance follows from.

    Args:
        width: E.
    """

    ids: Tensor
    counts: Tensor
    means: Tensor
    scatter: Tensor
    covariances: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("ids", torch.empty(0, dtype=torch.long))
        self.register_buffer("counts", torch.empty(0, dtype=torch.float64))
        self.register_buffer("means", torch.empty(0, width, dtype=torch.float64))
        self.register_buffer("scatter", torch.zeros(width, width, dtype=torch.float64))  # within classes, of all
        self.register_buffer("covariances", torch.zeros(width, width, dtype=torch.float64))  # sum over classes

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`."""
        return sum(sizes) * (self.ids.itemsize + self.counts.itemsize + self.means.shape[1] * self.means.itemsize)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Takes in features (N, E) with their classes (N,), new ones or known ones.

        The sum of the classes' own covariances counts a class that comes again once for each time.
        """
        features = features.double()
        for label in labels.unique().tolist():
            own = features[labels == label]
            mean = own.mean(dim=0)
            spread = (own - mean).T @ (own - mean)
            self.scatter = self.scatter + spread
            self.covariances = self.covariances + spread / max(len(own) - 1, 1)
            self._merge(label, len(own), mean)

    def add_shares(self, features: Tensor, shares: Tensor, ids: Sequence[int]) -> None:
        """Takes in features (N, E) of which every class has a share (N, C), as pooled covariances see them."""
        features, shares = features.double(), shares.double().clamp_min(torch.finfo(torch.float64).eps)
        counts = shares.sum(dim=0)
        means = shares.T @ features / counts[:, None]
        own = (features * shares.sum(dim=1, keepdim=True)).T @ features
        self.scatter = self.scatter + own - (means * counts[:, None]).T @ means
        for label, count, mean in zip(ids, counts.tolist(), means, strict=True):
            self._merge(label, count, mean)

    def _merge(self, label: int, count: float, mean: Tensor) -> None:
        """Counts features of a class, whose spread around their mean (E,) is in the scatter already."""
        known = (self.ids == label).nonzero()[:, 0]
        if len(known):
            row, before = int(known), float(self.counts[known])
            apart, total = mean - self.means[row], before + count
            self.scatter = self.scatter + before * count / total * torch.outer(apart, apart)
            self.means[row] += count / total * apart
            self.counts[row] = total
        else:
            self.ids = torch.cat([self.ids, self.ids.new_tensor([label])])
            self.counts = torch.cat([self.counts, self.counts.new_tensor([count])])
            self.means = torch.cat([self.means, mean[None]])

    def rows(self, ids: Sequence[int]) -> Tensor:
        """Means (C, E) of these classes; of one without features, 0."""
        place = {class_id: row for row, class_id in enumerate(self.ids.tolist())}
        nothing = self.means.new_zeros(self.means.shape[1])
        return torch.stack([self.means[place[i]] if i in place else nothing for i in ids])

    def precision(self, kind: Precision) -> Tensor:
        """The inverse (E, E) of the common covariance.

        Args:
            kind: `pooled`, of all features around the mean of their class, shrunk (Kubokawa and Srivastava), up to the
                factor (N - 1) / E, so that it does not fall as data grow; `mean`, of the mean over classes of their own
                covariances, which need two features each.
        """
        if kind == "mean":
            return torch.linalg.pinv(self.covariances / max(len(self.ids), 1), hermitian=True)
        return shrunk_precision(self.scatter, float(self.counts.sum()))


def shrunk_precision(scatter: Tensor, count: float) -> Tensor:
    """Inverse (E, E) of a covariance plus its trace over N - 1 on the diagonal; 0 where nothing is known of it.

    Args:
        scatter: (E, E), sum over N features of the outer square of their distance from a mean.
        count: N.
    """
    degrees = max(count - 1, 1)
    covariance = scatter / degrees
    if not covariance.any():
        return covariance
    eye = torch.eye(len(scatter), dtype=scatter.dtype, device=scatter.device)
    return torch.linalg.inv(covariance + covariance.trace() / degrees * eye)


def discriminant(means: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (C, E) and biases (C,) of the log-likelihoods of means (C, E), up to a term that all classes share."""
    weights = means @ precision
    return weights, -(weights * means).sum(dim=1) / 2
