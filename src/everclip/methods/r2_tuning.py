"""R2-Tuning: a small network beside a frozen CLIP reads its last blocks backwards and finds the moments of a text.

Frames are read as the words of a text see them, from the last block to earlier ones, by one block with a memory in
time. Points at several strides then say whether a moment is there, and where it begins and ends. Where a session has
class labels instead, a clip is compared with every class: the cosine of what its frames show of the class and the
class's text, averaged over frames; the heads for moments rest then.
Trained: the network (2,835,986 values at ViT-B/32).

Family: video.
Source: arXiv 2404.00801, official code yeliudev/R2-Tuning @ 03fbcf6 (configs/qvhighlights); class labels: of this
project.
Differs: the maximum over words is up to a text's end, where the code counts what fills up a batch. A bias that the
softmax over patches takes no notice of is left out (256 values). A text is read once in a pass, where the code repeats
it four times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.backbones.pieces import in_pieces
from everclip.errors import ConfigError
from everclip.losses.global_batch import global_rows
from everclip.losses.grounding import TEMPERATURE, aligned, focal, saliency_contrast
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.fine_tuning import LabelSpace, compared
from everclip.modules.moment_points import MomentHeads, per_frame, points, spans, targets
from everclip.modules.moments import FOUND, best
from everclip.modules.recurrent_side import RecurrentSide
from everclip.objectives.grounding import MOMENTS, VERY_GOOD, targets_of
from everclip.types import Batch, ClassSet, Moments, Positive, Session, as_clips

CANDIDATES = 50  # points whose moments are looked at


class Texts(NamedTuple):
    """Texts as the side network reads them: tokens (K, N, L, W) of K blocks, and which of them (N, L) are a text's."""

    tokens: Tensor
    known: Tensor


class R2Tuning(Method):
    """A side network on the tokens of a frozen backbone.

    Args:
        backbone: with access to the tokens of both towers, of texts up to their end.
        num_layers: blocks of each tower that are read, the last ones.
        width: of the network.
        heads: of attention.
        strides: of points, in frames; powers of two.
        dropout: see `RecurrentSide`. Processes draw their own, and the frame of a clip that contrasts are about.
        drop_path: see `RecurrentSide`.
        whole_frames: moments that are found begin and end between frames.
        score_weight: of the focal loss of points.
        distance_weight: of the distances of a moment's points to its ends.
        saliency_weight: of the contrast of frames with texts.
        video_weight: of the contrast of clips with texts, block by block.
        layer_weight: of the contrast of blocks with blocks, clip by clip.
        label_space: see `LabelSpace`.

    Raises:
        ConfigError: towers without access to their tokens or with fewer blocks, or heads that do not divide the width.
    """

    learns_moments = True
    moving = True
    couples_batch = True
    frozen_texts = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_layers: Positive = 4,
        width: Positive = 256,
        heads: Positive = 8,
        strides: Annotated[Sequence[Positive], Field(min_length=1)] = (1, 2, 4, 8),
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        whole_frames: bool = True,
        score_weight: Annotated[float, Field(ge=0)] = 1.0,
        distance_weight: Annotated[float, Field(ge=0)] = 0.2,
        saliency_weight: Annotated[float, Field(ge=0)] = 0.1,
        video_weight: Annotated[float, Field(ge=0)] = 0.1,
        layer_weight: Annotated[float, Field(ge=0)] = 0.1,
        label_space: LabelSpace = "current",
    ) -> None:
        super().__init__(backbone)
        vision, text = backbone.vision, backbone.text
        if vision is None or text is None or min(vision.layers, text.layers) < num_layers:
            raise ConfigError(
                f"method.num_layers={num_layers}: r2_tuning reads so many of the last blocks of both towers, but this "
                "backbone has fewer; use for example backbone=vit_b32_openai"
            )
        if width % heads or width % 2:
            raise ConfigError(f"method.heads={heads} must divide method.width={width}, which must be even")
        if list(strides) != sorted(set(strides)) or any(stride & (stride - 1) for stride in strides):
            raise ConfigError(f"method.strides={list(strides)}: must be powers of two that rise")
        self.side = RecurrentSide(
            vision, text, width=width, num_layers=num_layers, heads=heads, dropout=dropout, drop_path=drop_path
        )
        self.heads = MomentHeads(width, strides)
        self.layers = self.frozen_layers = range(-num_layers, 0)
        self.whole_frames = whole_frames
        self.score_weight, self.distance_weight, self.saliency_weight = score_weight, distance_weight, saliency_weight
        self.video_weight, self.layer_weight, self.label_space = video_weight, layer_weight, label_space

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.heads.requires_grad_(session.objective is not None and session.objective.moments)
        self.classes = compared(session, self.label_space)
        if self.classes:
            self.texts = self._texts(self.classes.first_prompts())

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self._moment_loss(batch) if MOMENTS in (batch.targets or {}) else self._label_loss(batch)

    def _label_loss(self, batch: Batch) -> dict[str, Tensor]:
        (logits,) = in_pieces(self.backbone, lambda images: (self._class_logits(images, self.texts),), batch.images)
        logits, labels = global_rows(batch.indices, logits, batch.labels)
        return {"cross_entropy": F.cross_entropy(logits, self.classes.columns(labels))}

    def _moment_loss(self, batch: Batch) -> dict[str, Tensor]:
        moments, judged = targets_of(batch)
        saliency = judged.float().mean(dim=-1) / VERY_GOOD
        standing = saliency > 0
        chosen = torch.multinomial((standing | ~standing.any(dim=1, keepdim=True)).float(), 1)
        tokens, known = self._texts(batch.texts or ())

        def read(images: Tensor, chosen: Tensor, known: Tensor, *tokens: Tensor) -> tuple[Tensor, ...]:
            frames, words = self._frames(images), [self.side.read_words(layer) for layer in tokens]
            hidden = self.side(frames, words, known)
            rows = torch.arange(len(images), device=images.device)
            own = torch.stack([layer[rows, chosen[:, 0], 0] for layer in frames], dim=1)
            pooled = torch.stack([self.side.pooled_text(layer, known) for layer in words], dim=1)
            return hidden, own, pooled, *self.heads(hidden)

        found = in_pieces(self.backbone, read, batch.images, chosen, known, *tokens)
        found = global_rows(batch.indices, moments, saliency, chosen, *found)
        moments, saliency, chosen, hidden, own, pooled, scores, distances = found
        at = points(hidden, self.heads.strides)
        right, ends = targets(at, moments, hidden.shape[1])
        apart = (distances - ends).abs()[right]
        return {
            "score": self.score_weight * focal(scores, right),
            "distance": self.distance_weight * apart.sum() / max(apart.numel(), 1),
            "saliency": self.saliency_weight * saliency_contrast(hidden, pooled[:, 0], saliency, chosen[:, 0]),
            "video": self.video_weight * aligned(own.transpose(0, 1), pooled.transpose(0, 1)),
            "layer": self.layer_weight * aligned(own, pooled),
        }

    @override
    def moments(self, images: Tensor, texts: Sequence[str]) -> Moments:
        tokens, known = self._texts(texts)
        words = [self.side.read_words(layer) for layer in tokens]
        hidden = self.side(self._frames(images), words, known)
        scores, distances = self.heads(hidden)
        at, length = points(hidden, self.heads.strides), hidden.shape[1]
        near = F.cosine_similarity(hidden, self.side.pooled_text(words[0], known)[:, None], dim=-1)
        scores = scores.sigmoid()
        order = scores.argsort(dim=1, descending=True)[:, :CANDIDATES]
        found = spans(at, distances, length, self.whole_frames)
        found = found.gather(1, order[..., None].expand(-1, -1, 2))
        return Moments(per_frame(at, scores, length) * near, best(found, scores.gather(1, order), FOUND))

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        """By the first template of each class."""
        texts = self._texts(classes.first_prompts())
        return lambda images: self._class_logits(images, texts)

    def _class_logits(self, images: Tensor, texts: Texts) -> Tensor:
        """(B, C): frames are mapped once, then read once for each of C texts."""
        if not len(images):  # which attention with a mask cannot reshape
            return images.new_zeros(0, len(texts.known))
        frames, words = self._frames(images), [self.side.read_words(layer) for layer in texts.tokens]
        pooled, logits = self.side.pooled_text(words[0], texts.known), []
        for place in range(len(texts.known)):
            own = [layer[place].expand(len(images), -1, -1) for layer in words]
            hidden = self.side(frames, own, texts.known[place].expand(len(images), -1))
            logits.append(F.cosine_similarity(hidden, pooled[place], dim=-1).mean(dim=1) / TEMPERATURE)
        return torch.stack(logits, dim=1)

    def _frames(self, images: Tensor) -> list[Tensor]:
        """What each block makes of frames (B, T, P, D), of pictures or clips."""
        clips = as_clips(images)
        with torch.no_grad():
            tokens = self.backbone.hidden(clips.flatten(0, 1), self.layers)
        return [self.side.read_frames(layer.unflatten(0, clips.shape[:2])) for layer in tokens]

    def _texts(self, texts: Sequence[str]) -> Texts:
        ids = self.backbone.tokenize(texts).to(self.backbone.device)
        with torch.no_grad():
            tokens = self.backbone.hidden_text(ids, self.layers)
        known = torch.arange(ids.shape[1], device=ids.device) <= ids.argmax(dim=1, keepdim=True)
        return Texts(torch.stack(tokens), known)
