"""Pictures that pass a frozen image tower once: their features stand for them from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from everclip.data.encoded import EncodedSamples
from everclip.methods.base import Method
from everclip.training.phases import Length
from everclip.types import Draw, Passes, Phase, Samples, View

MakePasses = Callable[[Method, Draw | None], Passes]


class FrozenFeatures:
    """Gives samples features for pictures where the method allows it, see `Method.frozen_images`.

    Those of pictures as in evaluation are kept as long as the samples are.

    Args:
        keep: False gives samples back as they are.
        passes: of a method over samples with a draw.
    """

    def __init__(self, keep: bool, passes: MakePasses) -> None:
        self._keep = keep
        self._passes = passes
        self._kept: WeakKeyDictionary[nn.Module, WeakKeyDictionary[Samples, Tensor]] = WeakKeyDictionary()

    def instead(self, samples: Samples, method: Method, looks: Sequence[Draw | None] = (None,)) -> Samples:
        """The samples with features for pictures, in each of some looks; themselves without any, or if not allowed."""
        if not (looks and self._keep and method.frozen_images and method.backbone.separable):
            return samples
        pictures, kept = samples.pictures, self._kept.setdefault(method.backbone, WeakKeyDictionary())
        if None in looks and pictures not in kept:
            kept[pictures] = self._encode(pictures, method, None)
        views = [kept[pictures] if look is None else self._encode(pictures, method, look) for look in looks]
        return samples.with_pictures(EncodedSamples(pictures, views))

    def _encode(self, pictures: Samples, method: Method, look: Draw | None) -> Tensor:
        encode = partial(method.backbone.encode_image, normalize=False, project=False)
        return self._passes(method, look).samples(pictures, lambda batch: encode(batch.images)).cpu()


def looks_of(
    phase: Phase, length: Length, count: int, key: tuple[int, ...], view: View | None, views: int | None
) -> Sequence[Draw | None]:
    """How the pictures of a phase look, if there are no more of these looks than pictures shown in all; else none.

    Args:
        phase: its `draws` have looks of their own in every step.
        length: of the phase.
        count: of its pictures.
        key: of its draws.
        view: None: as in evaluation.
        views: looks of each picture; None: another in every pass.
    """
    if view is None:
        looks: Sequence[Draw | None] = [None]
    elif views is None or phase.draws is not None:
        looks = ()
    else:
        looks = [Draw((*key, number), view=view) for number in range(min(views, length.epochs))]
    return looks if len(looks) * count <= length.steps * length.batch_size else ()
