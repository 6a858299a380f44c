"""The interface of a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.modules.class_rows import ClassRows
from everclip.modules.known_texts import KnownTexts
from everclip.modules.moments import from_saliency
from everclip.types import Batch, ClassSet, Moments, Phase, Samples, Session

Encode = Callable[[Tensor], Tensor]
Classifier = Callable[[Tensor], Tensor]
INFERENCE = ("encode_image", "encode_text", "class_features", "classifier", "logits", "moments")


class Extract(Protocol):
    """A pass over pictures: without gradients, in evaluation precision, in their order, complete on every rank."""

    def __call__(
        self, samples: Samples, encode: Encode, *, as_trained: bool = False, number: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Features (N, D) and labels (N,) of all samples.

        Args:
            samples: whatever the method may see.
            encode: maps normalised pictures (B, 3, S, S) to features (B, D).
            as_trained: show every picture as `train.augment` lets training see it, by draws of the session's own.
            number: of the pass, where there are several with other draws.
        """


# prepare(extract) -> a phase, called when its turn comes: its data may follow from what the phases before have trained.
Preparation = Callable[[Extract], Phase]


def prepared(phase: Phase | Preparation, extract: Extract) -> Phase:
    """The phase itself, or what its preparation makes of the method's present state."""
    return phase if isinstance(phase, Phase) else phase(extract)


@runtime_checkable
class Growing(Protocol):
    """A method, or a part of one, whose parameters or buffers grow as classes and pictures come."""

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """Bytes of its own tensors beyond those of a new one, after so many classes and training pictures."""


class Method(nn.Module):
    """Everything that adapts, around a frozen backbone; knows no trainer, no configuration, no device.

    What matters later must be a parameter or a buffer registered in `__init__` (it may be empty then and grow), so that
    a checkpoint holds it. Hooks are called in this order: `begin_session`, `phases`, then for each phase many times
    `loss`, `before_step`, `after_step`, after some of them `after_epoch`, then `end_session`.

    A run that was interrupted inside a session goes on like this: the state at the end of the session before is
    restored, `begin_session` and `phases` are called again with the same random numbers, and then parameters and
    buffers as of the last saved step are laid over. So plain attributes may be set in `begin_session` and `phases`, and
    whatever `loss`, `before_step`, `after_step` or `after_epoch` change must be a parameter or a buffer; a tensor of
    the backbone changes there only if it requires a gradient.

    A phase that `phases` gives as a `Preparation` is made right before its first step. Parameters, buffers and random
    numbers of that moment are saved: a run that goes on inside the phase prepares it again from them, then lays over
    the last saved step. So a preparation may read what was trained and set plain attributes for its own phase; what it
    leaves for later phases or `end_session` must be a parameter or a buffer. It gives the same on every rank.

    Attributes:
        sees: which training pictures may be read: those of the current `session`; `exemplars` too, those that `kept`
            names, which come as `session.memory`; or `all` sessions so far, in which case `session.train` holds them.
        open_vocabulary: whether classes that were never trained on can be scored.
        any_objective: whether it learns whatever a session's objective asks for; else it learns class labels.
        learns_pairs: whether a loss of its own learns image-text pairs; labels then stand for texts of their classes.
        learns_order: whether a loss of its own orders pictures by their values for the text of their class; where there
            are labels, pictures of a class then come before all others.
        learns_moments: whether a loss of its own learns where in clips texts are.
        others: what may be learnt beside class labels, by the trait that says so.
        needs_labels: whether a session must have pictures with labels.
        takes_clips: whether a sample may be a clip, whose features are the mean over its frames.
        moving: whether parts of it learn from clips alone, as nothing moves in a single picture.
        all_parameters_used: whether every trainable parameter gets a gradient in every step.
        shardable: whether frozen weights may be divided among processes: nothing but passes through the backbone reads
            them, and every batch makes the same passes whatever its pictures are.
        classes_return: whether a class may come again in a later session.
        frozen_images: whether pictures reach it through `backbone.encode_image` alone, without an edit, and no weight
            before the projection ever changes. Each then passes the image tower once, and its features (B, D) before
            the projection come in its place (`data.features`), which `backbone.encode_image` takes like pictures.
        frozen_layers: blocks of the image tower whose tokens are all that training reads of pictures, by
            `backbone.hidden` with these numbers, where no weight up to them ever changes. Each picture then passes them
            once in a session, if memory holds what they give (`data.features`).
        frozen_texts: whether no weight that texts pass through ever changes. Each text then passes the text tower once.
        couples_batch: whether the loss depends on how a batch is divided, as it does where pictures are compared with
            each other. Instead of micro-batches, the passes through the backbone are then divided (`Backbone.pieces`);
            over processes `everclip.losses.global_batch` joins a batch again.
    """

    sees: ClassVar[Literal["session", "exemplars", "all"]] = "session"
    open_vocabulary: bool = True
    any_objective: ClassVar[bool] = False
    learns_pairs: ClassVar[bool] = False
    learns_order: ClassVar[bool] = False
    learns_moments: ClassVar[bool] = False
    others: ClassVar[Mapping[str, str]] = {
        "learns_pairs": "image-text pairs",
        "learns_order": "pictures with values",
        "learns_moments": "texts of moments in clips",
    }
    needs_labels: bool = True
    takes_clips: ClassVar[bool] = True
    moving: ClassVar[bool] = False
    all_parameters_used: ClassVar[bool] = True
    frozen_images: bool = False
    frozen_layers: Sequence[int] = ()
    frozen_texts: bool = False
    shardable: bool = True
    couples_batch: bool = False
    classes_return: bool = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self._known_texts = KnownTexts()

    @classmethod
    def learnt(cls) -> str:
        """What it learns by a loss of its own, for messages."""
        return " or ".join(["class labels", *(kind for trait, kind in cls.others.items() if getattr(cls, trait))])

    def check(self, num_sessions: int) -> None:
        """Refuses a sequence of more sessions than the method was made for, before anything is trained.

        Raises:
            ConfigError: which setting does not fit.
        """

    def begin_session(self, session: Session, extract: Extract) -> None:
        """Before training: grow heads, build caches, snapshot a teacher."""

    def phases(self, session: Session) -> tuple[Phase | Preparation, ...]:
        """What to optimise in this session, one after the other; `()` if nothing is trained."""
        return (Phase(),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named, already weighted scalar terms; the engine adds them up."""
        raise NotImplementedError(f"{type(self).__name__} declares a phase without a loss")

    def before_step(self) -> None:
        """With the gradients of a step, before the optimiser uses them."""

    def after_step(self) -> None:
        """After the optimiser moved the parameters."""

    def after_epoch(self) -> None:
        """After the last step of a pass over a phase's data, also of one that the phase's end cuts short."""

    def end_session(self, session: Session, extract: Extract) -> None:
        """After training: prototypes, importance weights, merging, memory; the same result on every rank."""

    def kept(self) -> Tensor:
        """Numbers (M,) in the whole sequence of the pictures that later sessions get as `session.memory`, in order.

        From a buffer; picture i of `session.train` has number `session.offset + i`.
        """
        return torch.empty(0, dtype=torch.long)

    def encode_image(self, images: Tensor) -> Tensor:
        """Image features (B, E) of length 1 for normalised pictures (B, 3, S, S) or clips (B, T, 3, S, S)."""
        return self.backbone.encode_image(images)

    def encode_patches(self, images: Tensor) -> Tensor:
        """Patch features (B, G, G, E) of length 1 in the joint space, for normalised pictures (B, 3, S, S)."""
        return self.backbone.encode_patches(images, values=True)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Text features (N, E) of length 1."""
        if self.frozen_texts and not torch.is_grad_enabled():
            return self._known_texts.features(texts, self._encode_texts, self.backbone.logit_scale)
        return self._encode_texts(texts)

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        return self.backbone.encode_text(self.backbone.tokenize(texts).to(self.backbone.device))

    def templates(self, classes: ClassSet) -> tuple[str, ...]:
        """The templates that class names are put into: those of `classes`, unless the method brings its own."""
        return classes.templates

    def class_features(self, classes: ClassSet) -> Tensor:
        """One text feature (C, E) of length 1 per class: the mean over its templates."""
        groups = classes.by_templates()
        features = [self._group_features(group) for _, group in groups]
        if len(groups) == 1:
            return features[0]
        order = torch.tensor([position for positions, _ in groups for position in positions]).argsort()
        return torch.cat(features)[order.to(features[0].device)]

    def _group_features(self, classes: ClassSet) -> Tensor:
        """`class_features` of classes that share their templates."""
        features = [self.encode_text(classes.prompts(template)) for template in self.templates(classes)]
        return features[0] if len(features) == 1 else F.normalize(torch.stack(features).sum(dim=0), dim=-1)

    def classifier(self, classes: ClassSet) -> Classifier:
        """A function from normalised pictures (B, 3, S, S) to logits (B, C), columns in the order of `classes`.

        What depends on the classes alone is computed once, here. The logits of a picture depend on no other picture.
        """
        text = self.class_features(classes)
        scale = self.backbone.logit_scale
        return lambda images: scale * similarity(self.encode_image(images), text)

    def outside_towers(self) -> tuple[str, ...]:
        """Hooks that read more than the weights of the two towers; if there are none, those weights are the method.

        Every hook that a method overrides counts; one that reads weights alone in some setting says so here.
        """
        return tuple(hook for hook in INFERENCE if getattr(type(self), hook) is not getattr(Method, hook))

    def logits(self, images: Tensor, classes: ClassSet) -> Tensor:
        """Logits (B, C) of normalised pictures (B, 3, S, S), columns in the order of `classes`."""
        return self.classifier(classes)(images)

    def moments(self, images: Tensor, texts: Sequence[str]) -> Moments:
        """What of clips (B, T, 3, S, S) fits their texts: by the similarity of each frame, as a picture of its own."""
        frames = self.encode_image(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return from_saliency((frames * self.encode_text(texts)[:, None]).sum(dim=-1))

    def cross_entropy(self, batch: Batch, classes: ClassSet, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy (scalar) of the batch among `classes`, with part of the target spread over all of them."""
        target = classes.columns(batch.labels)
        return F.cross_entropy(self.logits(batch.images, classes), target, label_smoothing=label_smoothing)

    def num_trainable(self) -> int:
        """Number of trained values, counted from the parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def num_arriving(self, sizes: Sequence[int], images: Sequence[int] = ()) -> int:
        """Number of trained values that a session adds to those there are before it.

        Args:
            sizes: new classes of every session, up to this one.
            images: training pictures of these sessions.
        """
        grown = [m for m in self.modules() if isinstance(m, ClassRows) and isinstance(m.rows, nn.Parameter)]
        return sizes[-1] * sum(rows.rows.shape[1] for rows in grown)

    def kept_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """Bytes that a new method will hold, and write to a checkpoint, after so many classes and training pictures.

        Counted are what it trains and what is its own; a part that grows says how (`Growing`).
        """
        state = self.state_dict(keep_vars=True).items()
        begun = sum(value.nbytes for name, value in state if value.requires_grad or not name.startswith("backbone."))
        return begun + sum(m.grown_bytes(sizes, num_images) for m in self.modules() if isinstance(m, Growing))


class Rehearsal(Method):
    """A method that keeps exemplars: their numbers (M,), see `Method.kept`, are a buffer and so part of its state."""

    sees = "exemplars"
    numbers: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.register_buffer("numbers", torch.empty(0, dtype=torch.long))

    @override
    def kept(self) -> Tensor:
        return self.numbers
