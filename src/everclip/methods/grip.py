"""GRIP: prompts learn from pictures without labels, which take the labels that the prompts of before are surest of.

Zero-shot CLIP gives the first pseudo-labels, equally many to each class. Prompts are trained on them and on what has
labels; then they give better ones, and training begins anew: `grip` takes more pictures each time, in the end all,
`ifpl` as many, `fpl` stops after the first time. Trained: prompts of the text tower (CoOp; 8,192 values of 16 tokens on
ViT-B/32), of the image tower (VPT, 12,288), or of both through a transformer (UPT, 532,608 with 4 and 4).
Pseudo-labels come from the classes of a session's unlabelled pictures: all of its classes, or those that have no labels
(transductive). A session without such pictures is learnt from its labels alone. Later sessions go on with the prompts
of the one before, which also give their first pseudo-labels; a picture is compared with the session's classes.

Family: prompts.
Source: arXiv 2306.01669, official code BatsResearch/menghini-neurips23-code @ b387624, with
`training_strategies.py` of 2094fa5, which later commits lack.
Differs: every iteration begins with the prompts that the session began with, as in the paper; text prompts of the code
go on, as they share memory with their beginning (`restart=false`). All pictures are trained on, where the code takes
80 % and chooses nothing by the others. First pseudo-labels come from the sequence's templates; the code's text was "a
photo of a {}" with the braces left in. Prompts of the image tower in `both` begin normal, not uniform.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.losses.global_batch import global_rows
from everclip.losses.similarity import similarity
from everclip.memory.exemplars import joined
from everclip.methods.base import Extract, Method, Preparation
from everclip.modules.prompts import DeepPrompts
from everclip.modules.pseudo_labels import growing_count, leaderboards, likeliest
from everclip.modules.unified_prompts import UnifiedPrompts
from everclip.types import Batch, ClassSet, Phase, Positive, Samples, Session


class Grip(Method):
    """Prompts that label pictures for the next prompts.

    Args:
        backbone: with access to the tokens of the towers that get prompts; stays frozen.
        strategy: see the module.
        prompts: the tower that gets them, or `both`.
        length: tokens of each.
        iterations: trainings of `ifpl` and `grip`.
        pseudo_shots: pictures per class that `fpl` and `ifpl` label.
        choice: which are labelled: see `leaderboards` and `likeliest`.
        restart: every iteration begins with the prompts that the session began with.

    Raises:
        ValueError: a backbone without access to its tokens.
    """

    needs_labels = False
    couples_batch = True  # means over the labelled and over the other pictures of a batch

    def __init__(
        self,
        backbone: Backbone,
        *,
        strategy: Literal["fpl", "ifpl", "grip"] = "grip",
        prompts: Literal["text", "vision", "both"] = "text",
        length: Positive = 16,
        iterations: Positive = 10,
        pseudo_shots: Positive = 16,
        choice: Literal["leaderboards", "likeliest"] = "leaderboards",
        restart: bool = True,
    ) -> None:
        super().__init__(backbone)
        if backbone.text is None or backbone.vision is None:
            raise ValueError("grip needs a backbone with access to the tokens of both towers (a ViT)")
        words, patches = backbone.text.width, backbone.vision.width
        self.text = nn.Parameter(0.02 * torch.randn(1, length, words)) if prompts != "vision" else None
        self.vision = nn.Parameter(patches**-0.5 * torch.randn(1, length, patches)) if prompts != "text" else None
        self.mixer = UnifiedPrompts(words, patches) if prompts == "both" else None
        self.frozen_images = self.vision is None
        self.strategy, self.restart, self.pseudo_shots = strategy, restart, pseudo_shots
        self.iterations = 1 if strategy == "fpl" else iterations
        self.choose = leaderboards if choice == "leaderboards" else likeliest

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        self.compared = ClassSet.union([session.classes, session.without_labels])
        self.labelled = len(session.train)
        self.begun = {name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad}

    @override
    def phases(self, session: Session) -> tuple[Phase | Preparation, ...]:
        if session.unlabelled is None:
            return (Phase(),)
        steps = range(1, self.iterations + 1)
        return tuple(partial(self.prepare, session, session.unlabelled, iteration) for iteration in steps)

    def prepare(self, session: Session, unlabelled: Samples, iteration: int, extract: Extract) -> Phase:
        """A training on the labelled pictures and those that have pseudo-labels in an iteration, counted from 1."""
        classes = session.without_labels or session.classes
        count = self.pseudo_shots
        if self.strategy == "grip":
            count = growing_count(iteration, self.iterations, len(unlabelled), len(classes))
        teacher = Method(self.backbone) if session.is_base and iteration == 1 else self
        rows, columns = self.choose(self._probabilities(teacher, unlabelled, classes, extract), count)
        if self.restart:
            with torch.no_grad():
                for name, parameter in self.named_parameters():
                    if name in self.begun:
                        parameter.copy_(self.begun[name])
        ids = torch.tensor(classes.ids, device=columns.device)[columns]
        labels = torch.cat([torch.from_numpy(session.train.labels).to(ids), ids])
        self.targets = self.compared.columns(labels)
        self.weights = self.weights_of(len(rows), bool(session.without_labels))
        data = joined(session.train, unlabelled.subset(rows.tolist()))
        return Phase(f"iteration_{iteration}", loss=self.pseudo_loss, data=data)

    def _probabilities(self, teacher: Method, samples: Samples, classes: ClassSet, extract: Extract) -> Tensor:
        """Of classes, (N, C), for pictures by a method's features."""
        with torch.no_grad():
            text = teacher.class_features(classes)
        features, _ = extract(samples, teacher.encode_image)
        return (self.backbone.logit_scale * similarity(features, text)).softmax(dim=1)

    def weights_of(self, pseudo: int, transductive: bool) -> tuple[float, float]:
        """Weights of the mean losses over labelled and pseudo-labelled pictures, as in the code.

        Args:
            pseudo: number of pictures with pseudo-labels.
            transductive: these are of other classes.
        """
        if not self.labelled:
            return 0.0, 1.0
        if transductive:
            return 1.0, self.labelled / pseudo
        return (pseudo / self.labelled if self.strategy == "fpl" else self.labelled / pseudo), 1.0

    @override
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": self.cross_entropy(batch, self.compared)}

    def pseudo_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted mean cross-entropy of the batch's labelled pictures, and of the others; 0 where it has none."""
        logits = self.logits(batch.images, self.compared)
        losses = F.cross_entropy(logits, self.targets[batch.indices], reduction="none")
        losses, pseudo = global_rows(batch.indices, losses, (batch.indices >= self.labelled).to(losses.dtype))
        parts = {"labelled": 1 - pseudo, "pseudo": pseudo}
        return {
            name: weight * (part * losses).sum() / part.sum().clamp_min(1)
            for (name, part), weight in zip(parts.items(), self.weights, strict=True)
            if weight
        }

    def _prompts(self) -> tuple[Tensor | None, Tensor | None]:
        """Prompts (1, P, D) of the text tower and of the image tower."""
        if self.mixer is None or self.text is None or self.vision is None:
            return self.text, self.vision
        text, vision = self.mixer(self.text, self.vision)
        return text, vision

    @override
    def templates(self, classes: ClassSet) -> tuple[str, ...]:
        return super().templates(classes) if self.text is None else ("{}",)

    @override
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        prompts, _ = self._prompts()
        edit = None if prompts is None else DeepPrompts(prompts, "replace", "start")
        return self.backbone.encode_text(self.backbone.tokenize(texts).to(self.backbone.device), edit)

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        _, prompts = self._prompts()
        return self.backbone.encode_image(images, None if prompts is None else DeepPrompts(prompts, "replace", "start"))
