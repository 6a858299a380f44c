"""Pictures that pass a frozen image tower once: their features or tokens stand for them from then on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from everclip.data.cache import identity_of, known_as
from everclip.data.encoded import EncodedSamples
from everclip.data.feature_files import GIGABYTE, FeatureFiles
from everclip.digest import json_sha256, state_sha256
from everclip.methods.base import Method
from everclip.training.phases import Length
from everclip.types import Batch, Draw, Passes, Phase, Samples, View, in_views

log = logging.getLogger("everclip")
MakePasses = Callable[[Method, Draw | None], Passes]


class FrozenFeatures:
    """Gives samples features for pictures where the method allows it, see `Method.frozen_images`.

    Those of pictures as in evaluation are kept as long as the samples are.

    Args:
        keep: False gives samples back as they are.
        passes: of a method over samples with a draw.
        limit: bytes that tokens may take in memory, of which half of what is free is taken at most.
        files: where features are kept for later runs.
        circumstances: what numbers depend on besides weights and pictures; part of a file's key, so that features from
            a file are those that this run would compute.
        agreed: whether all processes have something.
        writes: whether this process is the one that writes files.
    """

    def __init__(
        self,
        keep: bool,
        passes: MakePasses,
        limit: int,
        *,
        files: FeatureFiles | None = None,
        circumstances: Sequence[Any] = (),
        agreed: Callable[[bool], bool] = bool,
        writes: bool = True,
    ) -> None:
        self._keep = keep
        self._passes, self._limit = passes, limit
        self._files, self._circumstances = files, circumstances
        self._agreed, self._writes = agreed, writes
        self._kept: WeakKeyDictionary[nn.Module, WeakKeyDictionary[Samples, Tensor]] = WeakKeyDictionary()
        self._known: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()

    def instead(self, samples: Samples, method: Method, looks: Sequence[Draw | None] = (None,)) -> Samples:
        """The samples with features for pictures, in each of some looks; themselves without any, or if not allowed."""
        if not (looks and self._keep and method.frozen_images and method.backbone.separable):
            return samples
        pictures, kept = samples.pictures, self._kept.setdefault(method.backbone, WeakKeyDictionary())
        if None in looks and pictures not in kept:
            kept[pictures] = self._features(pictures, method, None)
        views = [kept[pictures] if look is None else self._features(pictures, method, look) for look in looks]
        return samples.with_pictures(EncodedSamples(pictures, views))

    def tokens_instead(self, samples: Samples, method: Method, looks: Sequence[Draw | None]) -> Samples:
        """The samples with tokens of frozen blocks for pictures (see `Method.frozen_layers`), if memory holds them.

        They are kept no longer than the samples that are given back.
        """
        if not (looks and self._keep and len(samples) and method.frozen_layers):
            return samples
        pictures = samples.pictures
        size = self._encode(pictures.subset([0]), method, looks[0], method.frozen_layers).nbytes * len(samples)
        fits = size * len(looks) <= min(self._limit, free_memory() // 2)
        if not self._agreed(fits):
            return samples
        log.info("keeping in memory what frozen blocks make of pictures: %.2f GB", size * len(looks) / GIGABYTE)
        views = [self._features(pictures, method, look, method.frozen_layers) for look in looks]
        return samples.with_pictures(EncodedSamples(pictures, views))

    def _features(self, pictures: Samples, method: Method, look: Draw | None, layers: Sequence[int] = ()) -> Tensor:
        """Features (N, D), or tokens of layers, from a file or by a pass, which is then kept in a file."""
        if self._files is None or not len(pictures):
            return self._encode(pictures, method, look, layers)
        key = self._key(pictures, method, look, layers)
        found = self._files.load(key, len(pictures))
        if self._agreed(found is not None) and found is not None:
            return found
        features = self._encode(pictures, method, look, layers)
        if self._writes:
            self._files.keep(key, features)
        return features

    def _encode(self, pictures: Samples, method: Method, look: Draw | None, layers: Sequence[int] = ()) -> Tensor:
        """Features (N, D) of pictures, or tokens (N, K, L, D) after K layers; of each frame or view, with tokens."""
        backbone = method.backbone

        def encode(images: Tensor) -> Tensor:
            if layers:
                return torch.stack(backbone.hidden(images, layers), dim=1)
            return backbone.encode_image(images, normalize=False, project=False)

        def of_a_batch(batch: Batch) -> Tensor:
            images = batch.images
            divided = images.ndim > 4 if layers else in_views(images)
            return encode(images.flatten(0, 1)).unflatten(0, images.shape[:2]) if divided else encode(images)

        return self._passes(method, look).samples(pictures, of_a_batch).cpu()

    def _key(self, pictures: Samples, method: Method, look: Draw | None, layers: Sequence[int]) -> str:
        """Hex digest of all that features follow from."""
        backbone = method.backbone
        if backbone not in self._known:
            weights = state_sha256(backbone.image_tower.state_dict())
            self._known[backbone] = json_sha256([weights, backbone.provenance]), identity_of(backbone.resize)
        tower, transform = self._known[backbone]
        shown = None if look is None else repr(look)
        return json_sha256(
            [
                tower,
                known_as(pictures, backbone.resize, transform),
                shown,
                torch.__version__,
                *self._circumstances,
                *layers,
            ]
        )


def free_memory() -> int:
    """Bytes that this machine can give without taking them from programs; where that is not known, all it has."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def looks_of(
    phase: Phase,
    length: Length,
    count: int,
    key: tuple[int, ...],
    view: View | None,
    views: int | None,
    drawn: bool = False,
) -> Sequence[Draw | None]:
    """How the pictures of a phase look, if there are no more of these looks than pictures shown in all; else none.

    Args:
        phase: its `draws` have looks of their own in every step.
        length: of the phase.
        count: of its pictures.
        key: of its draws.
        view: None: as in evaluation.
        views: looks of each picture; None: another in every pass.
        drawn: see `Samples`.
    """
    if view is None and not drawn:
        looks: Sequence[Draw | None] = [None]
    elif views is None or phase.draws is not None:
        looks = ()
    else:
        looks = [Draw((*key, number), view=view) for number in range(min(views, length.epochs))]
    return looks if len(looks) * count <= length.steps * length.batch_size else ()
