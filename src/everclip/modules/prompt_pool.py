"""Pools of prompts for an image tower, chosen or weighted by what the frozen tower sees in a picture.

Shapes: B batch, G layers with a pool, K prompts of a pool, L length of a prompt, D width of the tower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from everclip.backbones.base import Backbone
from everclip.backbones.insertion import TokenEdit
from everclip.errors import ConfigError

Layers = Annotated[Sequence[Annotated[int, Field(ge=0)]], Field(min_length=1)]  # blocks of a tower, from 0


class Prefixes(TokenEdit):
    """Prefix tuning: keys and values (B or 1, L, D) put in front of a block's own, by block."""

    def __init__(self, prefixes: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        self.prefixes = prefixes
        self.alike = all(len(keys) == 1 for keys, _ in prefixes.values())

    def prefix(self, layer: int) -> tuple[Tensor, Tensor] | None:
        return self.prefixes.get(layer)


def prompted_width(backbone: Backbone, **layers: Layers) -> int:
    """Width D of the image tower whose blocks get prompts; they are given by the keyword that names them.

    Raises:
        ValueError: a tower without access to its tokens, or with fewer blocks.
    """
    if backbone.vision is None:
        raise ValueError("prompts need a backbone with access to its image tokens (a ViT)")
    for key, blocks in layers.items():
        if max(blocks) >= backbone.vision.layers:
            last = backbone.vision.layers - 1
            raise ValueError(
                f"{key}={list(blocks)}: prompts for block {max(blocks)}, but the image tower's are 0 to {last}"
            )
    return backbone.vision.width


@torch.no_grad()
def make_query(backbone: Backbone, images: Tensor) -> Tensor:
    """What prompts are chosen by (B, D): the class token of the tower without prompts, before the projection.

    The tower is frozen, so the query of a picture stays what it is.
    """
    return backbone.encode_image(images, normalize=False, project=False)


def known_sessions(num_sessions: int | None) -> range:
    """The sessions that prompts are made for.

    Raises:
        ValueError: None, which stands for the number of the sequence's sessions and is replaced where there is one.
    """
    if num_sessions is None:
        raise ValueError("num_sessions is not known without a sequence; give a number")
    return range(num_sessions)


class SessionParts(nn.Module):
    """A tensor of which every session trains a part of its own; the parts lie along dimension 1.

    The part of one session alone requires a gradient, so that no optimiser can move another.

    Args:
        parts: initial values (G, K / sessions, ...), one tensor per session.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(part) for part in parts)

    def check(self, num_sessions: int) -> None:
        """Refuses more sessions than there are parts.

        Raises:
            ConfigError: with the setting to change.
        """
        if num_sessions > len(self.parts):
            raise ConfigError(
                f"a sequence of {num_sessions} sessions, but prompts were divided among "
                f"method.num_sessions={len(self.parts)}; set it to the number of sessions"
            )

    def open(self, session: int) -> None:
        """Makes the part of a session, counted from 0, the trained one."""
        for number, part in enumerate(self.parts):
            part.requires_grad_(number == session)

    def until(self, count: int) -> Tensor:
        """The parts of the first `count` sessions, (G, K, ...)."""
        return torch.cat(list(self.parts[:count]), dim=1)


@torch.no_grad()
def orthogonalised(earlier: Tensor, count: int) -> Tensor:
    """Random rows (count, W) of length 1, each without its projections on the rows (K, W) before it.

    They are orthogonal to each other and to `earlier` where that is orthogonal itself. Drawn on the CPU.

    Source: `gram_schmidt` of GT-RIPL/CODA-Prompt @ 6417d4f, `models/zoo.py`.
    """
    rows = earlier
    for _ in range(count):
        drawn = torch.randn(earlier.shape[1]).to(earlier)
        shares = (rows @ drawn) / rows.square().sum(dim=1)
        rows = torch.cat([rows, (drawn - shares @ rows)[None]])
    return F.normalize(rows[len(earlier) :], dim=1)


def attended_similarity(query: Tensor, attention: Tensor, keys: Tensor) -> Tensor:
    """Cosine (G, B, K) between the query (B, D), times `attention` (G, K, D) value by value, and keys (G, K, D).

    Source: arXiv 2211.13218; `CodaPrompt.forward` of GT-RIPL/CODA-Prompt @ 6417d4f, `models/zoo.py`.
    """
    products = torch.einsum("bd,gkd->gbk", query, attention * F.normalize(keys, dim=-1))
    lengths = torch.einsum("bd,gkd->gbk", query.square(), attention.square()).sqrt()
    return products / lengths.clamp_min(1e-12)


def majority(chosen: Tensor, pool: int) -> Tensor:
    """The k prompts (1, k) chosen most often in a batch (B, k), the lower number first where that is equal."""
    counts = chosen.flatten().bincount(minlength=pool)
    return counts.argsort(descending=True, stable=True)[None, : chosen.shape[1]]
