"""GDA: Gaussian discriminant analysis of frozen image features beside zero-shot CLIP; closed form, nothing is trained.

The features of each class are taken for a Gaussian around its mean, with one covariance for all classes. Their
log-likelihoods are added to CLIP's logits with a weight. All follows from sums over the pictures, so the result after
all sessions is that of one fit on their union, and earlier sessions are not forgotten. With `em_steps`, a session's
pictures without labels are shared out among its classes (those without labels, where there are such), first as CLIP
sees them, then by what fits best (expectation maximisation); what the covariance is then known to be depends on the
sessions before, but these stay as they are.

Family: closed form.
Source: arXiv 2402.04087, official code mrflogs/ICLR24 @ 560fe21.
Differs: float64 throughout; the precision is the code's times (N - 1) / E (`weight` of the code = `weight` here times
(N - 1) / E), which does not fade as sessions add pictures, where the code fits once; without validation pictures the
weight is chosen by cross-validation on the first session's pictures instead of a labelled validation set. Expectation
maximisation is the paper's idea, which the code lacks; the details are ours: uniform class weights, shares by the sum
of both logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.errors import ConfigError
from everclip.losses.similarity import similarity
from everclip.methods.base import Classifier, Extract, Method
from everclip.modules.gaussians import ClassGaussians, Precision, discriminant, shrunk_precision
from everclip.modules.held_out import held_out
from everclip.modules.unseen import as_preferred
from everclip.types import ClassSet, Phase, Positive, Samples, Session


class Gda(Method):
    """Zero-shot CLIP and a Gaussian per class.

    Args:
        backbone: stays frozen.
        weight: of the log-likelihoods; None: the first of `weights` that is best on the validation pictures of the
            first session, or else in a fourfold cross-validation on its training pictures.
        weights: to choose from.
        precision: see `ClassGaussians.precision`; `mean` is the code's in base-to-novel.
        views: passes over a session's pictures, each as `train.augment` shows them; all features count.
        unseen: classes without pictures among others: `text`, they have the log-likelihood of the seen class that
            zero-shot CLIP prefers, so that CLIP decides between the two; `neighbours`, they have Gaussians made of the
            training features nearest to their text, which are kept for this.
        neighbours: features for a class without pictures.
        text_weight: how many features the text counts for in its mean.
        em_steps: times that pictures without labels are shared out after the first; 0: they are not looked at.

    Raises:
        ValueError: `em_steps` with a precision that needs whole features.
    """

    frozen_images = True
    frozen_texts = True
    needs_labels = False

    features: Tensor
    chosen: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        weight: Annotated[float, Field(ge=0)] | None = None,
        weights: Annotated[Sequence[float], Field(min_length=1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
        precision: Precision = "pooled",
        views: Positive = 1,
        unseen: Literal["text", "neighbours"] = "text",
        neighbours: Annotated[int, Field(ge=2)] = 64,
        text_weight: Annotated[int, Field(ge=0)] = 16,
        em_steps: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(backbone)
        if em_steps and precision == "mean":
            raise ValueError("em_steps needs precision=pooled; precision=mean needs whole features of every class")
        self.em_steps, self.needs_labels = em_steps, not em_steps
        self.gaussians = ClassGaussians(backbone.embed_dim)
        self.precision = precision
        self.weight, self.weights, self.views = weight, tuple(sorted(weights)), views
        self.synthesise = unseen == "neighbours"
        self.neighbours, self.text_weight = neighbours, text_weight
        self.classes_return = precision == "pooled"  # the other needs all features of a class
        self.register_buffer("features", torch.empty(0, backbone.embed_dim))
        self.register_buffer("chosen", torch.tensor(weight or 0.0, dtype=torch.float64))

    @override
    def begin_session(self, session: Session, extract: Extract) -> None:
        if session.is_base and self.weight is None and session.validation is None and not len(session.train):
            raise ConfigError(f"method.weight: {session.name} has no pictures with labels to choose it by; give it")

    @override
    def phases(self, session: Session) -> tuple[Phase, ...]:
        return ()

    @override
    def end_session(self, session: Session, extract: Extract) -> None:
        passes = [extract(session.train, self.encode_image, as_trained=True, number=i) for i in range(self.views)]
        features, labels = (torch.cat(parts) for parts in zip(*passes, strict=True))
        if session.is_base and self.weight is None:
            self.chosen = self.chosen.new_tensor(self._choose(session, features, labels, extract))
        self.gaussians.add(features, labels)
        if self.em_steps and session.unlabelled is not None:
            self._share_out(session.without_labels or session.classes, session.unlabelled, extract)
        if self.synthesise:
            self.features = torch.cat([self.features, features.float()])

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`."""
        return self.synthesise * self.views * num_images * self.features.shape[1] * self.features.itemsize

    def _share_out(self, classes: ClassSet, unlabelled: Samples, extract: Extract) -> None:
        """Takes in the features of pictures without labels, each shared among classes."""
        features, _ = extract(unlabelled, self.encode_image)
        logits = (self.backbone.logit_scale * similarity(features, self.class_features(classes))).double()
        shares, known = logits.softmax(dim=1), self.gaussians
        for _ in range(self.em_steps):
            fitted = deepcopy(known)
            fitted.add_shares(features, shares, classes.ids)
            weights, biases = discriminant(fitted.rows(classes.ids), fitted.precision(self.precision))
            shares = (logits + self.chosen * (features.double() @ weights.T + biases)).softmax(dim=1)
        known.add_shares(features, shares, classes.ids)

    def _choose(self, session: Session, features: Tensor, labels: Tensor, extract: Extract) -> float:
        """The weight with the most pictures right."""
        classes, scale = session.classes, self.backbone.logit_scale
        text = self.class_features(classes)
        right = torch.zeros(len(self.weights), device=text.device)
        count = len(session.train)
        judges = None if session.validation is None else extract(session.validation, self.encode_image)
        for fitted, shown, of_shown in held_out(session, features[:count], labels[:count], judges, "method.weight"):
            fitted = fitted.repeat(self.views)
            gaussians = ClassGaussians(features.shape[1]).to(features.device)
            gaussians.add(features[fitted], labels[fitted])
            weights, biases = discriminant(gaussians.rows(classes.ids), gaussians.precision(self.precision))
            logits, likelihoods = scale * similarity(shown, text), shown.double() @ weights.T + biases
            target = classes.columns(of_shown)
            for number, weight in enumerate(self.weights):
                right[number] += ((logits + weight * likelihoods).argmax(dim=1) == target).sum()
        return self.weights[int(right.argmax())]

    def _discriminant(self, classes: ClassSet, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (C, E) and biases (C,) of log-likelihoods, and which classes (C,) have them."""
        seen = set(self.gaussians.ids.tolist())
        known = torch.tensor([class_id in seen for class_id in classes.ids], device=text.device)
        weights = torch.zeros(text.shape, dtype=torch.float64, device=text.device)
        biases = torch.zeros(len(text), dtype=torch.float64, device=text.device)
        if known.any():
            ids = [class_id for class_id in classes.ids if class_id in seen]
            precision = self.gaussians.precision(self.precision)
            weights[known], biases[known] = discriminant(self.gaussians.rows(ids), precision)
        if self.synthesise and len(self.features) > 1 and not known.all():
            means, precision = self._imagined(text[~known].double())
            weights[~known], biases[~known] = discriminant(means, precision)
            known = torch.ones_like(known)
        return weights, biases, known

    def _imagined(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Means (C, E) and common precision (E, E) of classes without pictures, from their texts (C, E).

        As in the code, distances are from the text, and the precision has the factor that `ClassGaussians` leaves out.
        """
        features, count = self.features.double(), min(self.neighbours, len(self.features))
        means, precisions = [], torch.zeros_like(self.gaussians.scatter)
        for row in text:
            near = features[(features @ row).topk(count).indices]
            means.append((near.sum(dim=0) + self.text_weight * row) / (count + self.text_weight))
            precisions += shrunk_precision((near - row).T @ (near - row), count)
        return torch.stack(means), precisions / len(text) * text.shape[1] / (count - 1)

    @override
    def classifier(self, classes: ClassSet) -> Classifier:
        text = self.class_features(classes)
        weights, biases, known = self._discriminant(classes, text)
        scale = self.backbone.logit_scale

        def classify(images: Tensor) -> Tensor:
            features = self.encode_image(images)
            logits = scale * similarity(features, text)
            if known.any():
                likelihoods = (features.double() @ weights.T + biases).to(logits.dtype)
                logits = logits + self.chosen.to(logits.dtype) * as_preferred(likelihoods, logits, known)
            return logits

        return classify
