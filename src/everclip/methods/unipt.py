"""UniPT: a side network beside each tower reads all its layers; no gradient passes through the backbone.

The tokens of every layer are brought to one width. The tower's own feature asks each layer what it has to add, by
attention without softmax, and how much that counts; the sum, brought back, is added to the feature. Trained: the two
side networks (9,584,642 values on ViT-B/32), which every session goes on with; a new class is read by them like any.

Family: side networks.
Source: arXiv 2308.14316, official code Paranioar/UniPT @ 3fa457d (CLIP4Clip/modules/module_adapter.py, modeling.py).
Differs: Adam corrects its bias and decays biases too, BertAdam there does neither; padding is what stands behind
a text's end, there every token 0, which is also "!". `zero_init: true` begins as the backbone is, the code does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from everclip.backbones.base import Backbone
from everclip.backbones.insertion import TokenEdit
from everclip.backbones.pieces import in_pieces
from everclip.methods.families import TowerTuning
from everclip.modules.fine_tuning import LabelSpace
from everclip.types import Positive


class Unipt(TowerTuning):
    """Side networks of a frozen backbone.

    Args:
        backbone: stays frozen, with access to the tokens of both towers.
        reduction: the side networks are so many times narrower than the joint embedding.
        zero_init: begin with side networks that add nothing.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        reduction: Positive = 1,
        zero_init: bool = False,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        towers, embed = (backbone.vision, backbone.text), backbone.embed_dim
        sides = [SideNetwork(t.width, t.layers + 1, embed, embed // reduction, zero_init) for t in towers if t]
        if len(sides) < 2 or embed < reduction:
            raise ValueError(
                "side networks need two towers of open_clip's own blocks, as in vit_b16_openai, and a reduction of at "
                f"most {embed}"
            )
        super().__init__(backbone, label_space, label_smoothing, sides)
        self.image_side, self.text_side = sides

    @override
    def encode_image(self, images: Tensor) -> Tensor:
        if images.ndim == 5:  # a clip is the mean of its frames' features, here of length 1 each
            frames = self.encode_image(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            return F.normalize(frames.mean(dim=1), dim=-1)
        (features,) = in_pieces(self.backbone, self._read_images, images)
        return F.normalize(features, dim=-1)

    @override
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        tokens = self.backbone.tokenize(texts).to(self.backbone.device)
        (features,) = in_pieces(self.backbone, self._read_texts, tokens)
        return F.normalize(features, dim=-1)

    def _read_images(self, images: Tensor) -> tuple[Tensor]:
        feature, layers = watch(self.backbone.encode_image, images)
        first = torch.zeros(len(images), dtype=torch.long, device=images.device)
        seen = torch.ones(layers[0].shape[:2], dtype=torch.bool, device=images.device)
        return (self.image_side(feature, layers, seen, first),)

    def _read_texts(self, tokens: Tensor) -> tuple[Tensor]:
        feature, layers = watch(self.backbone.encode_text, tokens)
        ends = tokens.argmax(dim=-1)
        seen = torch.arange(tokens.shape[1], device=tokens.device) <= ends[:, None]
        return (self.text_side(feature, layers, seen, ends),)


class Watch(TokenEdit):
    """Keeps the tokens (N, L, D) that each block reads, and what the last one gives."""

    watched = True

    def __init__(self) -> None:
        self.layers: list[Tensor] = []

    @override
    def before(self, layer: int, tokens: Tensor) -> Tensor:
        self.layers.append(tokens)
        return tokens

    @override
    def after(self, tokens: Tensor) -> None:
        self.layers.append(tokens)


@torch.no_grad()
def watch(encode: Callable[..., Tensor], rows: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What a tower makes of some rows: features (N, E) of any length, and the tokens of all layers."""
    edit = Watch()
    return encode(rows, edit, normalize=False), edit.layers


class SideNetwork(nn.Module):
    """What the layers of a tower add to its feature.

    Args:
        width: D, of the tower's tokens.
        layers: K, that are read.
        embed: E, width of the feature.
        inner: M, own width.
        zero_init: begin with nothing to add.
    """

    def __init__(self, width: int, layers: int, embed: int, inner: int, zero_init: bool = False) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, inner) for _ in range(layers))
        self.ask = nn.Linear(embed, inner)
        self.up = nn.Linear(inner, embed)
        self.gate = nn.Linear(inner, 1)
        self.zero_init = zero_init

    def reset(self) -> None:
        """Draws all weights as PyTorch does."""
        for layer in (*self.down, self.ask, self.up, self.gate):
            layer.reset_parameters()
        if self.zero_init:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, feature: Tensor, layers: Sequence[Tensor], seen: Tensor, position: Tensor) -> Tensor:
        """The feature (N, E) with what is added.

        Args:
            feature: (N, E), of any length.
            layers: K times tokens (N, L, D).
            seen: (N, L), which tokens there are; the others are padding.
            position: (N,), of the token that the feature was read from.
        """
        question = self.ask(F.relu(feature))
        seen = seen.to(question.dtype)
        rows = torch.arange(len(feature), device=feature.device)
        answers, counts = [], []
        for down, tokens in zip(self.down, layers, strict=True):
            known = down(F.relu(tokens))
            weights = F.relu(torch.einsum("nm,nlm->nl", question, known)) * seen
            weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
            answers.append(torch.einsum("nl,nlm->nm", weights, known) + known[rows, position])
            mean = torch.einsum("nl,nlm->nm", seen, known) / seen.sum(dim=1, keepdim=True)
            counts.append(self.gate(question * mean))
        shares = torch.cat(counts, dim=1).softmax(dim=1)
        added: Tensor = self.up(F.relu(torch.einsum("nk,nkm->nm", shares, torch.stack(answers, dim=1))))
        return feature + added
