"""A cache of support features, which vote for their classes beside CLIP's logits.

A key is as near to a feature as their cosine says, its affinity; it votes exp(-sharpness * (1 - affinity)) for its
class. Keys may have captions, whose affinities are mixed in, and a second vote by the Kullback-Leibler divergence
between what the feature and the key have in common with the class texts.

    logits = scale * z T + weight * exp(-sharpness * (1 - A)) V - kl_weight * r(KL) V

z (B, E) features, T (E, C) texts of the classes, A (B, M) affinities to the keys, r rescales KL (B, M) to their range.
V (M, C) is what a key counts in the sum of its class: 1 where all classes have as many keys. Where they differ, votes
are means over the keys of a class times the number of keys that a class of the first session had, so that a class does
not win by having more pictures.

Source: arXiv 2111.03930 (gaopengcuhk/Tip-Adapter @ d0e2d6f), arXiv 2211.16198 (vishaal27/SuS-X @ d7d4d37), arXiv
2405.16591 (WLuLi/CapS-Adapter @ bb2182a).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import TypedDict

from everclip.losses.similarity import similarity
from everclip.modules.unseen import as_preferred
from everclip.types import ClassSet, Positive


class Grid(TypedDict):
    """Values to choose from: `low` and on in equal steps towards `high`, which is left out.

    Attributes:
        start: taken until there is something to choose by.
        steps: how many.
    """

    start: Annotated[float, Field(ge=0)]
    low: Annotated[float, Field(ge=0)]
    high: float
    steps: Positive


Setting = Annotated[float, Field(ge=0)] | Grid  # fixed, or to be chosen
NAMES = ("sharpness", "caption_share", "weight", "kl_weight")
Fold = tuple[Tensor, Tensor, Tensor]  # which keys (M,) there are; features (H, E) and labels (H,) to judge them by


def _values(setting: Setting) -> list[float]:
    if not isinstance(setting, Mapping):
        return [setting]
    step = (setting["high"] - setting["low"]) / setting["steps"]
    return [setting["low"] + number * step for number in range(setting["steps"])]


@dataclass(frozen=True)
class Support:
    """Keys of some classes.

    Attributes:
        keys: (M, E) of length 1.
        captions: (M, E) of length 1, None where keys have none.
        counts: V (M, C).
        text: (C, E) of length 1.
        temperature: of the distributions over classes, None without the second vote.
    """

    keys: Tensor
    captions: Tensor | None
    counts: Tensor
    text: Tensor
    temperature: float | None

    def affinity(self, features: Tensor, caption_share: float) -> Tensor:
        """Affinities (B, M) of features (B, E)."""
        near = similarity(features, self.keys)
        if self.captions is None:
            return near
        return (1 - caption_share) * near + caption_share * similarity(features, self.captions)

    def divergence(self, features: Tensor) -> Tensor:
        """Divergences (B, M) of the features' distributions over the classes from the keys'."""
        assert self.temperature is not None  # asked only then
        seen, kept = ((similarity(rows, self.text) / self.temperature).log_softmax(1) for rows in (features, self.keys))
        return (seen.exp() * seen).sum(dim=1, keepdim=True) - seen.exp() @ kept.T

    def votes(self, affinity: Tensor, sharpness: float) -> Tensor:
        """Votes (B, C) of keys with affinities (B, M)."""
        return (sharpness * (affinity - 1)).exp() @ self.counts


class FeatureCache(nn.Module):
    """Keys of all sessions so far, and the settings of their votes.

    Args:
        width: E.
        settings: values or grids by name, those of `NAMES` that the method has; of settings that are equally good, the
            first is taken, the last name varying fastest.
        temperature: see `Support`.
        trainable: whether the keys are a parameter.
        per_class: keys of a class; None: as many as training pictures.

    Raises:
        ValueError: a grid that ends before it begins.
    """

    keys: Tensor
    captions: Tensor
    labels: Tensor
    shots: Tensor
    chosen: Tensor
    rescale: Tensor

    def __init__(
        self,
        width: int,
        settings: Mapping[str, Setting],
        *,
        temperature: float | None = None,
        trainable: bool = False,
        per_class: int | None = None,
    ) -> None:
        super().__init__()
        self.per_class = per_class
        for name, setting in settings.items():
            if isinstance(setting, Mapping) and setting["high"] <= setting["low"]:
                raise ValueError(f"{name}.high={setting['high']} must be above {name}.low={setting['low']}")
        self.grids = {name: _values(setting) for name, setting in settings.items()}
        start = {n: s["start"] if isinstance(s, Mapping) else s for n, s in settings.items()}
        self.temperature = temperature
        if trainable:
            self.keys = nn.Parameter(torch.empty(0, width))
        else:
            self.register_buffer("keys", torch.empty(0, width))
        self.register_buffer("captions", torch.empty(0, width))
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))
        self.register_buffer("shots", torch.zeros((), dtype=torch.float64))
        self.register_buffer("chosen", torch.tensor([start.get(n, 0.0) for n in NAMES], dtype=torch.float64))
        self.register_buffer("rescale", torch.tensor([1.0, 0.0], dtype=torch.float64))  # factor and offset of KL

    @property
    def asks(self) -> str:
        """The settings that are still to be chosen, for messages; empty if none is."""
        return ", ".join(f"method.{name}" for name, values in self.grids.items() if len(values) > 1)

    def add(self, keys: Tensor, labels: Tensor, captions: Tensor | None = None) -> None:
        """Takes in keys (M, E) of classes (M,), and their captions (M, E) if they have any."""
        joined = torch.cat([self.keys.detach(), keys.to(self.keys.dtype)])
        self.keys = nn.Parameter(joined) if isinstance(self.keys, nn.Parameter) else joined
        self.labels = torch.cat([self.labels, labels])
        if captions is not None:
            self.captions = torch.cat([self.captions, captions.to(self.captions.dtype)])
        if not self.shots:
            self.shots = self.shots.new_tensor(len(labels) / len(labels.unique()))

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`."""
        rows = 2 if "caption_share" in self.grids else 1
        count = num_images if self.per_class is None else self.per_class * sum(sizes)
        return count * (rows * self.keys.shape[1] * self.keys.itemsize + self.labels.itemsize)

    def support(self, classes: ClassSet, text: Tensor, kept: Tensor | None = None) -> Support:
        """The keys of these classes (or the `kept` (M,) of them), with the texts (C, E) of the classes."""
        ids = torch.tensor(classes.ids, device=self.labels.device)
        mine = torch.isin(self.labels, ids)
        rows = (mine if kept is None else mine & kept).nonzero()[:, 0]
        text = text.to(torch.promote_types(text.dtype, torch.float32))
        counts = F.one_hot(classes.columns(self.labels[rows]), len(classes))
        counts = (counts * (self.shots / counts.sum(dim=0).clamp(min=1))).to(text.dtype)
        captions = self.captions[rows] if len(self.captions) else None
        return Support(self.keys[rows], captions, counts, text, self.temperature)

    def logits(self, features: Tensor, support: Support, scale: Tensor) -> Tensor:
        """Logits (B, C) of features (B, E) of length 1; classes without keys as in `as_preferred`."""
        logits = scale * similarity(features, support.text)
        known = support.counts.any(dim=0)
        if not known.any():
            return logits
        sharpness, caption_share, weight, kl_weight = self.chosen.tolist()
        with torch.autocast(features.device.type, enabled=False):
            votes = weight * support.votes(support.affinity(features, caption_share), sharpness)
            if self.temperature is not None:
                factor, offset = self.rescale.tolist()
                votes = votes - kl_weight * ((factor * support.divergence(features) + offset) @ support.counts)
        return logits + as_preferred(votes, logits, known)

    @torch.no_grad()
    def choose(self, classes: ClassSet, text: Tensor, scale: Tensor, folds: Iterable[Fold]) -> None:
        """Takes the settings with which most features are right, and measures the range of the affinities.

        Args:
            classes: that the features are of.
            text: (C, E) of these.
            scale: of the logits.
            folds: nothing to choose by leaves the settings as they are.
        """
        if not self.asks and self.temperature is None:
            return
        judged = [(self.support(classes, text, kept), shown, classes.columns(of)) for kept, shown, of in folds]
        if judged:
            values = [self.grids.get(name, [0.0]) for name in NAMES]
            right = torch.stack([self._right(values, scale, *fold) for fold in judged]).sum(dim=0)
            order = sorted(range(len(NAMES)), key=lambda axis: [*self.grids, *NAMES].index(NAMES[axis]))
            best = torch.unravel_index(right.permute(order).argmax(), [right.shape[axis] for axis in order])
            for axis, position in zip(order, best, strict=True):
                self.chosen[axis] = values[axis][int(position)]
        if self.temperature is not None:
            whole = self.support(classes, text)
            self.rescale = self._rescaling([(s, shown) for s, shown, _ in judged] or [(whole, whole.keys)])

    def _rescaling(self, pairs: list[tuple[Support, Tensor]]) -> Tensor:
        """Factor and offset that take divergences to the range of the affinities, over features and their keys."""
        share = float(self.chosen[NAMES.index("caption_share")])
        near = torch.stack([torch.stack(s.affinity(shown, share).aminmax()) for s, shown in pairs])
        apart = torch.stack([torch.stack(s.divergence(shown).aminmax()) for s, shown in pairs])
        return _factor_and_offset(apart, near).to(self.rescale.dtype)

    def _right(
        self, values: list[list[float]], scale: Tensor, support: Support, shown: Tensor, target: Tensor
    ) -> Tensor:
        """How many features (N, E) are right, for all combinations of values; one axis per name."""
        right = torch.zeros([len(own) for own in values], dtype=torch.long, device=shown.device)
        logits = scale * similarity(shown, support.text)
        apart = None if self.temperature is None else support.divergence(shown)
        sharpnesses, shares, weights, kl_weights = values
        for column, share in enumerate(shares):
            affinity = support.affinity(shown, share)
            kl_votes = torch.zeros_like(logits)
            if apart is not None:
                factor, offset = _factor_and_offset(torch.stack(apart.aminmax()), torch.stack(affinity.aminmax()))
                kl_votes = (factor * apart + offset) @ support.counts
            for row, sharpness in enumerate(sharpnesses):
                votes = support.votes(affinity, sharpness)
                for (i, weight), (j, kl_weight) in product(enumerate(weights), enumerate(kl_weights)):
                    answer = (logits + weight * votes - kl_weight * kl_votes).argmax(dim=1)
                    right[row, column, i, j] = (answer == target).sum()
        return right


def _factor_and_offset(source: Tensor, target: Tensor) -> Tensor:
    """Factor and offset (2,) of the line that takes the range of some numbers to that of others."""
    factor = ((target.max() - target.min()) / (source.max() - source.min())).nan_to_num(0.0, 0.0)
    return torch.stack([factor, target.min() - factor * source.min()])
