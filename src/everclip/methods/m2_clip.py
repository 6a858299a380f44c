"""M2-CLIP: temporal adapters in the image tower and plain ones in the text tower learn four tasks at once.

An adapter in front of each MLP mixes a token with the same one of the frames around (temporal enhancement) and adds
what patches have become since the frame before (temporal difference); at first it adds nothing. The tasks are to match
clips with the texts of a batch, to find the class among all texts, to guess masked words of a text from the clip, and
to classify by a linear layer. Trained: adapters and what the tasks need, 15.5 million values on ViT-B/16 with 400
classes. Every session goes on with them; words and rows of the layer are added. A class is found by its text.

Family: video.
Source: arXiv 2401.11649; official code sallymmx/m2clip @ 3c8c661 (models_adapter.py, main.py, utils.py).
Differs: the code never masks a word, which makes its loss NaN (`mask_share` is ours), has the 520 words of all classes
from the start, and takes the softmax of similarities for logits in the second task (`double_softmax: true`). Its 16.1
million values count differences behind the last attention, which reach no output. Biases of words and classes decay,
other biases do not. There the linear layer finds trained classes (`predictor: linear`). Punctuation is no word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.backbones.pieces import in_pieces
from everclip.losses.global_batch import global_rows
from everclip.losses.matching import class_matching
from everclip.losses.similarity import similarity
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.class_rows import ClassRows
from everclip.modules.fine_tuning import first_template
from everclip.modules.masked_words import NOTHING, MaskedWords
from everclip.modules.ted_adapters import Adapters, Adapting, Bottleneck, OverTime, Place, TedAdapter
from everclip.modules.tower_blocks import chosen_layers, last_norm, tower_blocks
from everclip.types import Batch, ClassSet, ParameterGroup, Phase, Positive, Session, as_clips

Weight = Annotated[float, Field(ge=0)]


class M2Clip(Method):
    """Adapters of clips and texts that learn four tasks.

    Args:
        backbone: stays frozen, with access to the tokens of both towers.
        adapter_width: of adapters, in the middle.
        places: layers with an adapter in front, in both towers.
        vision_layers: numbers of the adapted blocks, from 0, or negative ones, from the last; None: all.
        text_layers: the same in the text tower; the block that guesses words always has adapters.
        zero_init: begin with text adapters that add nothing.
        contrastive_weight: of the loss between the clips and the texts of a batch.
        cmc_weight: of the cross-entropy (cross-modal classification) among texts of the session's classes.
        mlm_weight: of the loss of masked words; 0: there are none.
        vc_weight: of the cross-entropy (visual classification) of the linear layer; 0: there is none.
        double_softmax: take probabilities for logits in the cross-entropy among texts.
        mask_share: of texts, that have masked words.
        mask_rate: of their words, at least one.
        dropout: probability, in front of the linear layer.
        text_lr: learning rate of text adapters; None: the optimiser's, as for all others.
        predictor: what classifies: `text` of any class, or the `linear` layer trained classes.

    Raises:
        ValueError: towers or weights that do not fit.
    """

    moving = True
    couples_batch = True
    shardable = False  # words are guessed with the weights of the last block
    step: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        adapter_width: Positive = 384,
        places: Annotated[Sequence[Place], Field(min_length=1)] = ("mlp",),
        vision_layers: Sequence[int] | None = None,
        text_layers: Sequence[int] | None = (-1,),
        zero_init: bool = False,
        contrastive_weight: Weight = 0.5,
        cmc_weight: Weight = 0.5,
        mlm_weight: Weight = 0.1,
        vc_weight: Weight = 1.0,
        double_softmax: bool = False,
        mask_share: Annotated[float, Field(ge=0, le=1)] = 0.5,
        mask_rate: Annotated[float, Field(ge=0, le=1)] = 0.2,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        text_lr: Annotated[float, Field(gt=0)] | None = None,
        predictor: Literal["text", "linear"] = "text",
    ) -> None:
        super().__init__(backbone)
        if not contrastive_weight + cmc_weight or (predictor == "linear" and not vc_weight):
            raise ValueError(
                "method.contrastive_weight or method.cmc_weight must be above 0, else nothing learns texts, and "
                "predictor=linear needs a vc_weight above 0"
            )
        blocks, embed = tower_blocks(backbone, "both"), backbone.embed_dim
        vision, text = (own[0].ln_1.normalized_shape[0] for own in (blocks["vision"], blocks["text"]))
        if mlm_weight and text != embed:
            raise ValueError(
                f"method.mlm_weight={mlm_weight}: texts ask frames about words, so the text tower must be as wide as "
                f"the joint embedding, but has {text} to {embed}; use mlm_weight=0"
            )

        def ted(place: Place, layer: int) -> TedAdapter:
            # Behind the last attention, patches reach no output.
            patches = place == "attention" or layer < len(blocks["vision"]) - 1
            return TedAdapter(vision, adapter_width, patches)

        def make(place: Place, layer: int) -> Bottleneck:
            return Bottleneck(text, adapter_width, zero_init)

        layers = chosen_layers(vision_layers, len(blocks["vision"]), "vision")
        self.vision_adapters = Adapters(ted, layers, places)
        layers = chosen_layers(text_layers, len(blocks["text"]), "text")
        self.text_adapters = Adapters(make, layers, places)
        self.words = MaskedWords(text, Adapters(make, [0], places)) if mlm_weight else None
        self.over_time = OverTime(embed, embed // 2)
        self.linear = ClassRows(vision + 1, trainable=True) if vc_weight else None
        # Tuples: they are in the backbone, and in the state only once.
        self.norms = last_norm(backbone, "vision"), last_norm(backbone, "text")
        self.last_block = (blocks["text"][-1],)
        self.contrastive_weight, self.cmc_weight = contrastive_weight, cmc_weight
        self.mlm_weight, self.vc_weight = mlm_weight, vc_weight
        self.double_softmax, self.dropout = double_softmax, dropout
        self.mask_share, self.mask_rate = mask_share, mask_rate
        self.text_lr, self.predictor = text_lr, predictor
        self.open_vocabulary = predictor == "text"
        self.register_buffer("step", torch.zeros((), dtype=torch.long))  # of the session

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = first_template(session.classes)
        if self.linear is not None:
            rows = torch.empty(len(session.new), self.linear.rows.shape[1] - 1).normal_(std=0.02)
            self.linear.append(session.new, F.pad(rows, (0, 1)))
        if self.words is not None:
            self.words.learn(first_template(session.seen).first_prompts())
        self.key = int(torch.randint(2**62, ()))
        self.step.zero_()

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        groups = []
        for texts, lr in ((False, None), (True, self.text_lr)):
            for biases, decay in ((False, None), (True, 0.0)):
                own = tuple(
                    p
                    for name, p in self.named_parameters()
                    if p.requires_grad
                    and name.startswith(("text_adapters.", "words.adapters.")) == texts
                    and name.endswith("bias") == biases
                )
                groups += [ParameterGroup(own, lr=lr, weight_decay=decay)] if own else []
        return (Phase(parameters=tuple(groups)),)

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        step = int(self.step)
        streams = [np.random.default_rng([self.key, step, index]) for index in batch.indices.tolist()]
        frames, pooled = in_pieces(self.backbone, self._read_clips, batch.images)
        tokens, targets = self._texts(batch, streams)
        words, text_stream = in_pieces(self.backbone, self._read_texts, tokens)
        missed = self._missed(text_stream, frames, targets)
        pooled = self._dropped(pooled, streams)
        masked = (targets != NOTHING).sum(dim=1)
        features = (F.normalize(frames.mean(dim=1), dim=-1), F.normalize(words, dim=-1))
        rows = global_rows(batch.indices, batch.labels, *features, pooled, missed, masked)
        return self._terms(*rows)

    def _texts(self, batch: Batch, streams: Sequence[np.random.Generator]) -> tuple[Tensor, Tensor]:
        """Tokens (B, L) of the texts of a batch, and which words are to be guessed there (B, L)."""
        prompts, backbone = self.classes.first_prompts(), self.backbone
        texts = [prompts[column] for column in self.classes.columns(batch.labels).tolist()]
        if self.words is None:
            tokens = backbone.tokenize(texts)
            targets = torch.full_like(tokens, NOTHING)
        else:
            tokens, targets = self.words.mask(texts, streams, self.mask_share, self.mask_rate, backbone.tokenize)
        return tokens.to(backbone.device), targets.to(backbone.device)

    def _dropped(self, pooled: Tensor, streams: Sequence[np.random.Generator]) -> Tensor:
        """Pooled features (B, D) of which each sample's numbers leave some out."""
        if not self.dropout:
            return pooled
        kept = np.stack([stream.random(pooled.shape[1]) >= self.dropout for stream in streams])
        return pooled * torch.from_numpy(kept).to(pooled) / (1 - self.dropout)

    def _missed(self, stream: Tensor, frames: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (B,) of the masked words of each text, added up."""
        if self.words is None:
            return frames.new_zeros(len(frames))
        logits = self.words(self.last_block[0], self.norms[1], stream, frames)
        return F.cross_entropy(logits.mT, targets, ignore_index=NOTHING, reduction="none").sum(dim=1)

    def _terms(
        self, labels: Tensor, videos: Tensor, words: Tensor, pooled: Tensor, missed: Tensor, masked: Tensor
    ) -> dict[str, Tensor]:
        """The losses of a whole batch, from features (B, E) of length 1, `_dropped`, and `_missed` of so many (B,)."""
        scale, target, losses = self.backbone.logit_scale, self.classes.columns(labels), dict[str, Tensor]()
        if self.contrastive_weight:
            losses["contrastive"] = self.contrastive_weight * class_matching(scale * similarity(videos, words), labels)
        if self.cmc_weight:
            logits = scale * similarity(videos, self.class_features(self.classes))
            logits = logits.softmax(dim=1) if self.double_softmax else logits
            losses["cmc"] = self.cmc_weight * F.cross_entropy(logits, target)
        if self.words is not None:
            losses["mlm"] = self.mlm_weight * missed.sum() / masked.sum().clamp(min=1)
        if self.linear is not None:
            losses["vc"] = self.vc_weight * F.cross_entropy(self._classify(pooled, self.classes), target)
        return losses

    def _classify(self, pooled: Tensor, classes: ClassSet) -> Tensor:
        """Logits (B, C) of the linear layer, for pooled features (B, D)."""
        assert self.linear is not None  # asked for only where there is one
        return similarity(F.pad(pooled, (0, 1), value=1.0), self.linear.of(classes))

    @override
    def after_step(self) -> None:
        self.step += 1

    def _read_clips(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Features of frames (B, T, E), and normed class tokens of their mean (B, D), of pictures or clips."""
        clips = as_clips(clips)
        count, frames = clips.shape[:2]
        edit = Adapting(self.vision_adapters, frames)
        features = self.backbone.encode_image(clips.flatten(0, 1), edit, normalize=False)
        features = features + self.over_time(features, frames)
        pooled = self.norms[0](edit.tokens[:, 0].unflatten(0, (count, frames)).mean(dim=1))
        return features.unflatten(0, (count, frames)), pooled

    def _read_texts(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, E) of texts, of any length, and their residual stream (N, L, D) after the last block."""
        edit = Adapting(self.text_adapters)
        return self.backbone.encode_text(tokens, edit, normalize=False), edit.tokens

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        frames, _ = in_pieces(self.backbone, self._read_clips, images)
        return F.normalize(frames.mean(dim=1), dim=-1)

    @override
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        tokens = self.backbone.tokenize(texts).to(self.backbone.device)
        features, _ = in_pieces(self.backbone, self._read_texts, tokens)
        return F.normalize(features, dim=-1)

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        if self.predictor == "text":
            return super().classifier(classes)
        return lambda images: self._classify(self._read_clips(images)[1], classes)
