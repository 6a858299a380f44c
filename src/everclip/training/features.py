"""Pictures that pass a frozen image tower once: their features stand for them from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from everclip.data.cache import identity_of, known_as
from everclip.data.encoded import EncodedSamples
from everclip.data.feature_files import FeatureFiles
from everclip.digest import json_sha256, state_sha256
from everclip.methods.base import Method
from everclip.training.phases import Length
from everclip.types import Batch, Draw, Passes, Phase, Samples, View, in_views

MakePasses = Callable[[Method, Draw | None], Passes]


class FrozenFeatures:
    """Gives samples features for pictures where the method allows it, see `Method.frozen_images`.

    Those of pictures as in evaluation are kept as long as the samples are.

    Args:
        keep: False gives samples back as they are.
        passes: of a method over samples with a draw.
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
        *,
        files: FeatureFiles | None = None,
        circumstances: Sequence[Any] = (),
        agreed: Callable[[bool], bool] = bool,
        writes: bool = True,
    ) -> None:
        self._keep = keep
        self._passes = passes
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

    def _features(self, pictures: Samples, method: Method, look: Draw | None) -> Tensor:
        """Features (N, D) from a file or by a pass, which is then kept in a file."""
        if self._files is None or not len(pictures):
            return self._encode(pictures, method, look)
        key = self._key(pictures, method, look)
        found = self._files.load(key, len(pictures))
        if self._agreed(found is not None) and found is not None:
            return found
        features = self._encode(pictures, method, look)
        if self._writes:
            self._files.keep(key, features)
        return features

    def _encode(self, pictures: Samples, method: Method, look: Draw | None) -> Tensor:
        encode = partial(method.backbone.encode_image, normalize=False, project=False)

        def of_each_view(batch: Batch) -> Tensor:
            images = batch.images
            return encode(images.flatten(0, 1)).unflatten(0, images.shape[:2]) if in_views(images) else encode(images)

        return self._passes(method, look).samples(pictures, of_each_view).cpu()

    def _key(self, pictures: Samples, method: Method, look: Draw | None) -> str:
        """Hex digest of all that features follow from."""
        backbone = method.backbone
        if backbone not in self._known:
            weights = state_sha256(backbone.image_tower.state_dict())
            self._known[backbone] = json_sha256([weights, backbone.provenance]), identity_of(backbone.resize)
        tower, transform = self._known[backbone]
        shown = None if look is None else repr(look)
        return json_sha256(
            [tower, known_as(pictures, backbone.resize, transform), shown, torch.__version__, *self._circumstances]
        )


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
