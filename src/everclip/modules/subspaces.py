"""Weight matrices split by their singular values into directions that stay and directions that are trained.

The split is a parametrisation of the weight itself: open_clip's attention reads the weights of its projections instead
of calling modules, so a wrapper around linear layers, as peft's OSF is, would be passed by.

Source: the forward pass and projections of huggingface/peft @ 5d602fd, src/peft/tuners/osf (arXiv 2504.07097).
Differs: queries, keys and values, which lie in one matrix here, are three matrices.

M rows, N columns, K directions that stay, R = min(M, N) - K that are trained; B pictures or texts, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from everclip.backbones.base import Backbone
from everclip.backbones.insertion import TokenEdit
from everclip.modules.tower_blocks import Tower, Towers, tower_blocks

FACTORS = ("left", "scale", "right")


class Subspaces(nn.Module):
    """One matrix (M, N) as the sum of a fixed part and a trained one, both in factors; nothing before `split`."""

    high_left: Tensor
    high_scale: Tensor
    high_right: Tensor
    low_left: nn.Parameter
    low_scale: nn.Parameter
    low_right: nn.Parameter

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns, self.size = rows, columns, min(rows, columns)
        for name, shape in zip(FACTORS, ((rows, 0), (0,), (0, columns)), strict=True):
            self.register_buffer(f"high_{name}", torch.empty(shape))
            setattr(self, f"low_{name}", nn.Parameter(torch.empty(shape)))

    @property
    def is_split(self) -> bool:
        """Whether there are factors."""
        return len(self.high_scale) + len(self.low_scale) > 0

    def split(self, weight: Tensor, keep: int) -> None:
        """Makes `keep` directions of the largest singular values of a matrix (M, N) fixed, the others trained."""
        left, scale, right = torch.linalg.svd(weight.detach().float(), full_matrices=False)
        high, low = (left[:, :keep], scale[:keep], right[:keep]), (left[:, keep:], scale[keep:], right[keep:])
        for name, fixed, trained in zip(FACTORS, high, low, strict=True):
            setattr(self, f"high_{name}", fixed.contiguous())
            setattr(self, f"low_{name}", nn.Parameter(trained.contiguous()))

    def forward(self) -> Tensor:
        with torch.autocast(self.high_left.device.type, enabled=False):
            high = (self.high_left * self.high_scale) @ self.high_right
            return high + (self.low_left * self.low_scale) @ self.low_right

    def project_gradients(self) -> None:
        """Removes from the gradients of the trained factors what lies in the fixed directions."""
        if self.low_left.grad is not None and self.low_right.grad is not None:
            self._project(self.low_left.grad, self.low_right.grad)

    def project_factors(self) -> None:
        """Removes from the trained factors what lies in the fixed directions: no step leaves anything there."""
        self._project(self.low_left, self.low_right)

    @torch.no_grad()
    def _project(self, left: Tensor, right: Tensor) -> None:
        left -= self.high_left @ (self.high_left.T @ left)
        right -= (right @ self.high_right.T) @ self.high_right


class SplitWeight(nn.Module):
    """Parametrisation of a weight whose `parts` equal groups of rows are matrices of their own.

    Args:
        weight: (parts * M, N).
        parts: 3 for queries, keys and values in one matrix.
    """

    def __init__(self, weight: Tensor, parts: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.parts = nn.ModuleList(Subspaces(rows // parts, columns) for _ in range(parts))

    def matrices(self) -> Iterator[Subspaces]:
        """The parts, typed."""
        for part in self.parts:
            assert isinstance(part, Subspaces)
            yield part

    def forward(self, weight: Tensor) -> Tensor:
        """The factors' product; before the first split the weight as it is."""
        matrices = list(self.matrices())
        if not any(matrix.is_split for matrix in matrices):
            return weight
        return torch.cat([matrix() for matrix in matrices])


@dataclass(frozen=True)
class Place:
    """A split weight inside a block: `owner.name`, multiplied with what goes into `reader`, or comes out of it."""

    owner: nn.Module
    name: str
    reader: nn.Module
    output: bool
    weight: SplitWeight

    def split(self, keep: Sequence[int]) -> None:
        """Splits the weight as it is now, each of its matrices with as many fixed directions as given."""
        chunks = getattr(self.owner, self.name).detach().chunk(len(keep))
        for part, chunk, number in zip(self.weight.matrices(), chunks, keep, strict=True):
            part.split(chunk, number)


def split_weights(backbone: Backbone, towers: Towers) -> dict[Tower, list[Place]]:
    """Parametrises the four weights of every block, in place and without changing them yet; gives them by tower.

    Raises:
        ValueError: a tower that is no plain transformer.
    """
    return {
        tower: [place for block in blocks for place in _places(block)]
        for tower, blocks in tower_blocks(backbone, towers).items()
    }


def _places(block: Any) -> Iterator[Place]:
    layout = [
        (block.attn, "in_proj_weight", block.ln_1, True, 3),
        (block.attn.out_proj, "weight", block.attn.out_proj, False, 1),
        (block.mlp.c_fc, "weight", block.mlp.c_fc, False, 1),
        (block.mlp.c_proj, "weight", block.mlp.c_proj, False, 1),
    ]
    for owner, name, reader, output, parts in layout:
        weight = SplitWeight(getattr(owner, name), parts)
        parametrize.register_parametrization(owner, name, weight)
        yield Place(owner, name, reader, output, weight)


def token_similarity(
    encode: Callable[[Tensor, TokenEdit], Tensor], places: Sequence[Place]
) -> Callable[[Tensor], Tensor]:
    """A function from inputs of a tower to how similar every matrix's outputs are to its inputs, (B, matrices).

    Cosines, means over the tokens; of vectors that differ in length, the first coordinates are compared.

    Args:
        encode: the tower's, of pictures or token ids.
        places: of that tower.

    Source: arXiv 2502.01403, importance of a layer.
    """

    def watch(place: Place, found: list[Tensor]) -> RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            tokens = output if place.output else inputs[0]
            for matrix in getattr(place.owner, place.name).chunk(len(place.weight.parts)):
                size = min(matrix.shape)
                similar = F.cosine_similarity(tokens[..., :size], F.linear(tokens, matrix)[..., :size], dim=-1)
                found.append(similar.mean(dim=1))

        return place.reader.register_forward_hook(hook)

    def similarity(inputs: Tensor) -> Tensor:
        found: list[Tensor] = []
        handles = [watch(place, found) for place in places]
        try:
            encode(inputs, TokenEdit())  # an edited pass calls every module; open_clip's own does not
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(found, dim=1)

    return similarity
