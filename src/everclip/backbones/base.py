"""What every backbone offers to methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from everclip.backbones.blocks import AdaptedBlock
from everclip.backbones.insertion import TokenEdit


@dataclass(frozen=True)
class Tower:
    """Size of one transformer tower: token width, number of blocks and of attention heads."""

    width: int
    layers: int
    heads: int


class Backbone(nn.Module, ABC):
    """A CLIP-like model of two towers, frozen and in evaluation mode unless a method unfreezes parts of it.

    Attributes:
        embed_dim: E, width of the joint embedding.
        image_size: side of the square pictures the image tower takes, in pixels.
        vision: size of the image tower, None where it is no plain transformer.
        text: size of the text tower.
        mean: per-channel mean (3,) subtracted by `normalize`, for values in [0, 1].
        std: per-channel standard deviation (3,).
        separable: whether features before the projection to the joint embedding can be had.
        provenance: model name, weights, their SHA-256 and whatever else identifies the numbers.
        naive: edited passes compute every position of every block with materialised attention, to compare with.
        pieces: into which pictures or texts are divided while gradients are wanted; nothing of a piece but its features
            is kept, and the backward pass computes it again. Losses of features thus see all rows at once, with the
            memory of a piece (gradient caching, arXiv 2101.06983).
        divided: whether anything has been, since this was last set to False.
    """

    embed_dim: int
    image_size: int
    vision: Tower | None
    text: Tower | None
    mean: Tensor
    std: Tensor
    separable: bool
    provenance: dict[str, Any]
    naive: bool = False
    pieces: int = 1
    divided: bool = False

    @abstractmethod
    def compile_blocks(self) -> None:
        """Lets torch.compile make the blocks of edited passes faster; numbers change by rounding only."""

    @abstractmethod
    def checkpoint_blocks(self) -> None:
        """Keeps of each block in training what it was given and computes the rest again in the backward pass."""

    @abstractmethod
    def shard_blocks(self, mesh: DeviceMesh) -> None:
        """Divides the frozen weights of the blocks among processes, which from then on pass through them together.

        Raises:
            ConfigError: a tower that is no plain transformer, or blocks without frozen weights.
        """

    @property
    @abstractmethod
    def image_tower(self) -> nn.Module:
        """What image features follow from, its projection to the joint embedding included."""

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """Factor of cosine similarities, a scalar (already exponentiated)."""

    @abstractmethod
    def resize(self, image: Image.Image) -> Tensor:
        """The picture as the backbone wants it: (3, image_size, image_size) uint8, RGB."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (N, L), L as short as the longest text allows where the text tower is causal.

        Raises:
            ConfigError: a text has no words.
        """

    @abstractmethod
    def encode_image(
        self, images: Tensor, edit: TokenEdit | None = None, *, normalize: bool = True, project: bool = True
    ) -> Tensor:
        """Image features (B, E) of normalised pictures (B, 3, S, S), of length 1 if `normalize`.

        Those of a clip (B, T, 3, S, S) are the mean over its frames, taken before the length becomes 1; an edit acts on
        every frame.

        Without `project`, the features (B, D) of the image tower that the projection to the joint embedding reads: of
        the class token, the mean patch or the attention pooling, as the backbone pools, after the last norm. They may
        stand in the place of pictures wherever there is no edit: then only what follows them is computed.

        Raises:
            ConfigError: an edit of a tower without access to its tokens; features before the projection of one that is
                not `separable`.
        """

    @abstractmethod
    def hidden(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """All tokens (B, 1 + G * G, D) of the image tower after some of its blocks.

        The class token comes first, then the patches, row by row; it is the residual stream, before any later norm.

        Args:
            images: (B, 3, S, S), normalised; or what this gave for the same layers, stacked (B, K, 1 + G * G, D).
            layers: numbers of blocks, from 0, or negative ones, from the last; in any order, as the result's.

        Raises:
            ConfigError: a block that does not exist, or a tower without access to its tokens.
        """

    @abstractmethod
    def hidden_text(self, tokens: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """All tokens (N, L, D) of the text tower after some of its blocks; those behind a text's end mean nothing.

        Args:
            tokens: ids (N, L), as `tokenize` gives them.
            layers: as `hidden` takes them.

        Raises:
            ConfigError: a block that does not exist, or a tower that is not causal.
        """

    @abstractmethod
    def encode_words(self, tokens: Tensor, *, normalize: bool = True) -> Tensor:
        """Features (N, L, E) in the joint embedding of all tokens of texts; that of a text's end is the text's own.

        Args:
            tokens: ids (N, L), as `tokenize` gives them; what is behind a text's end means nothing.
            normalize: to length 1.

        Raises:
            ConfigError: a tower that is not causal.
        """

    @abstractmethod
    def encode_patches(self, images: Tensor, *, values: bool = False, normalize: bool = True) -> Tensor:
        """Features (B, G, G, E) in the joint embedding of the patches of pictures.

        Args:
            images: (B, 3, S, S), normalised.
            values: instead of the last block's patch tokens, what its attention would put out if every patch saw itself
                alone, without residual stream and MLP; then through the last norm and the projection, as the class
                token goes. Attention and residual stream spread over all patches what the whole picture shows
                (arXiv 2112.01071, 2407.12442).
            normalize: to length 1.

        Raises:
            ConfigError: a tower without access to its tokens, or whose projection reads no single token.
        """

    @abstractmethod
    def encode_text(self, tokens: Tensor, edit: TokenEdit | None = None, *, normalize: bool = True) -> Tensor:
        """Text features (N, E) of token ids (N, L), of length 1 if `normalize`."""

    def normalize(self, images: Tensor) -> Tensor:
        """Model input (..., 3, S, S) float32 of raw pictures or clips (..., 3, S, S) uint8.

        Features in the place of pictures (see `encode_image`) stay as they are.
        """
        if images.is_floating_point():
            return images
        # In one copy: batches are large, and every temporary of their size costs as much as the arithmetic.
        floats = images.to(torch.float32, copy=True)
        return floats.div_(255).sub_(self.mean[:, None, None]).div_(self.std[:, None, None])

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: dropout and batch statistics of a pre-trained tower are never trained here.

        What methods have put into its blocks follows.
        """
        super().train(False)
        for module in self.modules():
            if isinstance(module, AdaptedBlock):
                module.parts.train(mode)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device
