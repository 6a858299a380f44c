"""CLIP-Refine: picture and text of a pair move towards one random vector, while the model before teaches similarities.

Features of pictures and of texts lie apart (modality gap). In every step each pair draws a vector of standard normal
numbers, to which both of its features, of any length, are pulled (random feature alignment, RaFA). The model as it was
when the session began gives distributions over the texts (and over the pictures, per text) of the batch, blended with
the true pairing (hybrid contrastive distillation, HyCD). Trained: all weights but the logit scale.

Family: image-text pairs.
Source: arXiv 2504.12717, equations 3 to 7; official code yshinya6/clip-refine @ 3879a2b (updater/contrastive.py), whose
licence allows evaluation alone: it was run and read, nothing is copied.
Differs: written for one stage on COCO captions; later sessions go on from the last one's weights with it as teacher. As
in the code, alignment is a mean over all values; in the paper it is a sum, E / 2 times as much (`alignment_weight: 256`
on ViT-B/32). Products of raw features are the logits, as there.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.global_batch import global_rows
from everclip.losses.similarity import similarity
from everclip.memory.frozen import frozen_features
from everclip.methods.base import Extract, Method
from everclip.modules.fine_tuning import texts_of, unfreeze
from everclip.modules.teacher import Teacher
from everclip.types import Batch, Session


class ClipRefine(Method):
    """Random feature alignment and hybrid distillation of image-text pairs.

    Args:
        backbone: unfrozen in place.
        alignment_weight: of the mean squared distance to the random vectors.
        distillation_weight: of the distillation.
        blend: share of the true pairing in the target of the distillation; the rest is the teacher's.
        temperature: of the distillation. Products of raw features are divided by it: the longer a backbone's features
            are for its logit scale, the larger it must be.
        std: standard deviation of the random vectors; 0 pulls every feature to the origin.
    """

    learns_pairs = True
    couples_batch = True  # the distillation is a softmax over the batch
    step: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        alignment_weight: Annotated[float, Field(ge=0)] = 1.0,
        distillation_weight: Annotated[float, Field(ge=0)] = 1.0,
        blend: Annotated[float, Field(ge=0, le=1)] = 0.5,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        std: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        super().__init__(backbone)
        unfreeze(backbone)
        self.alignment_weight, self.distillation_weight = alignment_weight, distillation_weight
        self.distil = partial(hybrid_distillation, blend=blend, temperature=temperature)
        self.std = std
        self.register_buffer("step", torch.zeros((), dtype=torch.long))  # of the session

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.classes
        self.teacher = Teacher(self.backbone)
        encode = partial(self.teacher.encode_image, normalize=False)
        self.known = frozen_features(encode, session.train, extract, keep=session.recurs)
        self.key = int(torch.randint(2**62, ()))
        self.step.zero_()

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        texts, encode = texts_of(batch, self.classes), self.backbone.encode_text
        tokens = self.backbone.tokenize(texts).to(self.backbone.device)
        own = self.backbone.encode_image(batch.images, normalize=False), encode(tokens, normalize=False)
        known = self.known(batch), self.teacher.encode_tokens(tokens, normalize=False)
        order, *features = global_rows(batch.indices, batch.indices, *own, *known)
        pictures, words, known_pictures, known_words = features
        pulled = random_alignment(pictures, words, self.std * self.references(order, pictures))
        distilled = self.distil(similarity(pictures, words), similarity(known_pictures, known_words))
        return {"alignment": self.alignment_weight * pulled, "distillation": self.distillation_weight * distilled}

    def references(self, indices: Tensor, features: Tensor) -> Tensor:
        """Standard normal vectors (B, E) of the pairs of a batch, the same however processes share it.

        Args:
            indices: (B,) of the pairs.
            features: (B, E), whose kind they are of.
        """
        stream = torch.Generator().manual_seed(self.key + int(self.step))
        places = indices.argsort().argsort().to(stream.device)
        return torch.randn(features.shape, generator=stream)[places].to(features)

    @override
    def after_step(self) -> None:
        self.step += 1


def random_alignment(pictures: Tensor, texts: Tensor, references: Tensor) -> Tensor:
    """Mean squared distance (scalar) of pictures (B, E) to references (B, E), and that of texts (B, E), added up."""
    return F.mse_loss(pictures, references) + F.mse_loss(texts, references)


def hybrid_distillation(student: Tensor, teacher: Tensor, *, blend: float, temperature: float) -> Tensor:
    """Divergence (scalar) of the student's distributions from the teacher's blended with the pairing, times T squared.

    The mean over both directions: of each row over the columns, and of each column over the rows.

    Args:
        student: logits (B, B) of pictures and texts; those on the diagonal belong together.
        teacher: logits (B, B) without gradient.
        blend: share of the pairing.
        temperature: T, by which both are divided.
    """
    pairing = torch.eye(len(student), dtype=student.dtype, device=student.device)
    both = []
    for own, known in ((student, teacher), (student.T, teacher.T)):
        target = blend * pairing + (1 - blend) * (known / temperature).softmax(dim=1)
        both.append(F.kl_div((own / temperature).log_softmax(dim=1), target, reduction="batchmean"))
    return temperature**2 * torch.stack(both).mean()
