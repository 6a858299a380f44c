"""L2P: a pool of prompts, of which a picture gets the few whose keys are nearest to what the frozen tower sees in it.

Trained: prompts and keys, shared by all sessions (84,480 values on ViT-B/16), and a linear layer with `head: linear`.

Family: prompts.
Source: arXiv 2112.08654, official code google-research/l2p @ dd8836e (`models/prompt.py`, `models/vit.py`,
`configs/cifar100_l2p.py`); `form: prefix` is L2P++ of arXiv 2211.13218, GT-RIPL/CODA-Prompt @ 6417d4f
(`models/zoo.py`).
Differs: the tower is CLIP's. Classes are text features, compared with the class token, unless `head` is linear: then
the layer reads the mean of the prompts' outputs, as in the paper. Prompts pass CLIP's norm in front of the first block.
In evaluation each picture chooses for itself, where the official code lets a test batch vote, which tells its session.
The key term is that of the official code in both forms; the code of L2P++ pulls what one picture chose towards the
queries of the whole batch.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.backbones.insertion import TokenEdit
from everclip.losses.global_batch import global_rows
from everclip.losses.similarity import similarity
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.image_head import HeadKind, ImageHead
from everclip.modules.prompt_pool import Prefixes, majority, make_query, prompted_width
from everclip.modules.prompts import DeepPrompts
from everclip.types import Batch, ClassSet, Positive, Session


class L2p(Method):
    """A pool of prompts chosen by key.

    Args:
        backbone: with access to the tokens of its image tower; stays frozen.
        pool: K, prompts.
        length: L, rows of a prompt; even with `form: prefix`.
        top_k: prompts for a picture.
        form: prompts are tokens at the `input`, or a `prefix` of the first block's attention, one half of the rows keys
            and the other values.
        choice: in training, each `picture` chooses for itself, or the `batch` takes the prompts chosen most often.
        key_weight: of 1 minus the cosine between the query and a chosen key, summed over the chosen.
        head: classes as `text` features of their names, or rows of a `linear` layer.

    Raises:
        ValueError: more chosen than there are, an odd length with `form: prefix`, or a backbone without access to its
            tokens.
    """

    takes_clips = False  # a prompt is chosen for a picture
    frozen_texts = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        pool: Positive = 10,
        length: Positive = 10,
        top_k: Positive = 4,
        form: Literal["input", "prefix"] = "input",
        choice: Literal["batch", "picture"] = "batch",
        key_weight: Annotated[float, Field(ge=0)] = 1.0,
        head: HeadKind = "text",
    ) -> None:
        super().__init__(backbone)
        width = prompted_width(backbone)
        if top_k > pool:
            raise ValueError(f"top_k={top_k} prompts of a pool={pool}")
        if form == "prefix" and length % 2:
            raise ValueError(f"length={length} must be even: one half are keys, the other values")
        self.top_k = top_k
        self.form = form
        self.choice = choice
        self.key_weight = key_weight
        self.prompts = nn.Parameter(torch.empty(pool, length, width).uniform_(0, 0.01))
        self.keys = nn.Parameter(torch.empty(pool, width).uniform_(0, 0.01))
        self.head = ImageHead(width, head)
        self.open_vocabulary = head == "text"
        self.couples_batch = choice == "batch"

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        encode, keep = partial(make_query, self.backbone), session.recurs
        self.queries = frozen_features(encode, session.train, extract, keep=keep)
        self.head.begin(self.backbone, session, self.class_features)

    def cosines(self, queries: Tensor) -> Tensor:
        """Cosines (B, K) between queries (B, D) and the keys."""
        return similarity(F.normalize(queries, dim=1), F.normalize(self.keys, dim=1))

    def edit(self, chosen: Tensor) -> TokenEdit:
        """Inserts the prompts with the numbers `chosen` (B or 1, k)."""
        prompts = self.prompts[chosen]
        if self.form == "prefix":
            keys, values = (half.flatten(1, 2) for half in prompts.chunk(2, dim=2))
            return Prefixes({0: (keys, values)})
        tokens = prompts.flatten(1, 2)
        edit = DeepPrompts(tokens[None], "replace", "start")
        if self.head.linear is not None:
            edit.readout = slice(1, 1 + tokens.shape[1])
        return edit

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cosines = self.cosines(self.queries(batch))
        chosen = cosines.topk(self.top_k, dim=1).indices
        if self.choice == "batch":
            (everyone,) = global_rows(batch.indices, cosines.detach())
            chosen = majority(everyone.topk(self.top_k, dim=1).indices, len(self.keys))
        features = self.head.features(self.backbone, batch.images, self.edit(chosen))
        logits = similarity(features, self.head.training_rows(self.classes))
        distances = 1 - cosines.gather(1, chosen.expand(len(batch), -1))
        return {
            "cross_entropy": F.cross_entropy(logits, self.classes.columns(batch.labels)),
            "key": self.key_weight * distances.sum(dim=1).mean(),
        }

    def chosen(self, images: Tensor) -> TokenEdit:
        """The prompts of pictures (B, 3, S, S), each of which chooses for itself."""
        return self.edit(self.cosines(make_query(self.backbone, images)).topk(self.top_k, dim=1).indices)

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        return self.backbone.encode_image(images, self.chosen(images))

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        rows = self.head.rows(self.backbone, classes, self.class_features)
        return lambda images: similarity(self.head.features(self.backbone, images, self.chosen(images)), rows)
