"""DualPrompt: prefixes inside attention, general ones for all sessions and expert ones for each.

A first pass through the frozen image tower gives a query. In training a picture gets the expert of its session, whose
key is pulled towards the query; in evaluation the expert of the nearest key. Trained: the general prefixes, prefixes
and key of the session's expert, and a linear layer with `head: linear`.

Family: prompts.
Source: arXiv 2204.04799, official code google-research/l2p @ dd8836e (`models/prompt.py`, `configs/*_dualprompt.py`);
in torch, with other lengths and a key per block, GT-RIPL/CODA-Prompt @ 6417d4f (`models/zoo.py`).
Differs: the tower is CLIP's, and classes are text features unless `head` is linear as in the paper. A picture is
compared with the keys of sessions that have been, where both codes offer untrained ones too, and never with other
pictures, where the official CIFAR-100 configuration lets a test batch vote. The key term is a mean over the batch, as
in the official code; the torch code sums over pictures and blocks, which matters little to Adam.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.similarity import similarity
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.image_head import HeadKind, ImageHead
from everclip.modules.prompt_pool import Layers, Prefixes, SessionParts, known_sessions, make_query, prompted_width
from everclip.types import Batch, ClassSet, Positive, Session


class DualPrompt(Method):
    """General and expert prefixes.

    Args:
        backbone: with access to the tokens of its image tower; stays frozen.
        num_sessions: experts, one per session; None: as many as the sequence has sessions.
        general_length: keys, and as many values, of a general prefix.
        general_layers: blocks of the image tower, from 0, with a general prefix each.
        expert_length: keys, and as many values, of an expert prefix.
        expert_layers: blocks in which every expert has a prefix.
        key_weight: of 1 minus the cosine between the query and the expert's key.
        head: classes as `text` features of their names, or rows of a `linear` layer.

    Raises:
        ValueError: a block with both kinds, a backbone without these blocks, or no number of sessions.
    """

    opened: Tensor

    takes_clips = False  # a prompt is chosen for a picture
    frozen_texts = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_sessions: Positive | None = None,
        general_length: Positive = 5,
        general_layers: Layers = (0, 1),
        expert_length: Positive = 5,
        expert_layers: Layers = (2, 3, 4),
        key_weight: Annotated[float, Field(ge=0)] = 1.0,
        head: HeadKind = "text",
    ) -> None:
        super().__init__(backbone)
        width = prompted_width(backbone, general_layers=general_layers, expert_layers=expert_layers)
        if both := set(general_layers) & set(expert_layers):
            raise ValueError(f"general_layers and expert_layers share the blocks {sorted(both)}")
        self.general_layers = general_layers
        self.expert_layers = expert_layers
        self.key_weight = key_weight

        def small(*shape: int) -> Tensor:
            return torch.empty(shape).uniform_(0, 0.01)

        self.general = nn.Parameter(small(len(general_layers), 2, general_length, width))
        sessions = known_sessions(num_sessions)
        shape = (len(expert_layers), 1, 2, expert_length, width)
        self.experts = SessionParts([small(*shape) for _ in sessions])
        self.keys = SessionParts([small(1, 1, width) for _ in sessions])
        self.register_buffer("opened", torch.zeros((), dtype=torch.long))  # sessions begun
        self.head = ImageHead(width, head)
        self.open_vocabulary = head == "text"

    @override
    def check(self, num_sessions: int) -> None:
        self.keys.check(num_sessions)

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.session = session.index
        self.experts.open(self.session)
        self.keys.open(self.session)
        self.opened.fill_(self.session + 1)
        self.classes = session.classes
        encode, keep = partial(make_query, self.backbone), session.recurs
        self.queries = frozen_features(encode, session.train, extract, keep=keep)
        self.head.begin(self.backbone, session, self.class_features)

    def edit(self, experts: Tensor) -> Prefixes:
        """General prefixes and expert ones (G, B or 1, 2, L, D)."""
        general = {layer: (k[None], v[None]) for layer, (k, v) in zip(self.general_layers, self.general, strict=True)}
        keys, values = experts.unbind(dim=2)
        return Prefixes(general | dict(zip(self.expert_layers, zip(keys, values, strict=True), strict=True)))

    def chosen(self, images: Tensor) -> Prefixes:
        """The prefixes of pictures (B, 3, S, S) whose session is not known."""
        count = int(self.opened)
        cosines = similarity(
            F.normalize(make_query(self.backbone, images), dim=1), F.normalize(self.keys.until(count)[0], dim=1)
        )
        return self.edit(self.experts.until(count)[:, cosines.argmax(dim=1)])

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cosines = F.cosine_similarity(self.queries(batch), self.keys.parts[self.session][0])
        edit = self.edit(self.experts.parts[self.session])
        logits = similarity(
            self.head.features(self.backbone, batch.images, edit), self.head.training_rows(self.classes)
        )
        return {
            "cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels)),
            "key": self.key_weight * (1 - cosines).mean(),
        }

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        return self.backbone.encode_image(images, self.chosen(images))

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        rows = self.head.rows(self.backbone, classes, self.class_features)
        return lambda images: similarity(self.head.features(self.backbone, images, self.chosen(images)), rows)
