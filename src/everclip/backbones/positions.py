"""Text towers for longer texts: stretched positions, and files that hold them in two tables.

Source: arXiv 2403.15378 (beichenzbc/Long-CLIP @ 3966af9, model/longclip.py and model/model_longclip.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from everclip.errors import ConfigError

KEPT = 20  # the positions that short captions have trained well
STRETCH = 4  # makes 248 of 77
TABLE, REST = "positional_embedding", "positional_embedding_res"


def stretched(table: Tensor, factor: int) -> Tensor:
    """A table of positions (F * L - (F - 1) * 20, D) for longer texts, from one of (L, D).

    The first 20 stay as they are. Of every later one come `factor`, on the straight line to the next; the last goes on
    in the direction it was reached in.
    """
    kept, rest = table[:KEPT], table[KEPT:]
    steps = torch.cat([rest[1:], 2 * rest[-1:] - rest[-2:-1]]) - rest
    parts = torch.arange(factor, dtype=table.dtype, device=table.device)[:, None] / factor
    return torch.cat([kept, (rest[:, None] + parts * steps[:, None]).flatten(0, 1)])


def stretch_text_tower(tower: Any, factor: int, causal: bool) -> int:
    """Stretches the positions of a text tower in place; gives how many tokens a text may then have.

    Args:
        tower: of open_clip.
        factor: see `stretched`.
        causal: whether no token sees those behind it; else short texts would become others.

    Raises:
        ConfigError: it is not causal, or has no positions to stretch.
    """
    if not causal or len(tower.positional_embedding) < KEPT + 2:
        raise ConfigError(
            f"backbone.stretch={factor} needs a causal text tower of at least {KEPT + 2} positions, which this model "
            "has not; use backbone.stretch=null"
        )
    table = stretched(tower.positional_embedding.detach(), factor)
    tower.positional_embedding = nn.Parameter(table, requires_grad=False)
    tower.attn_mask = torch.full((len(table), len(table)), -torch.inf, device=table.device).triu(1)
    tower.context_length = len(table)
    return len(table)


def compare(state: Mapping[str, Tensor], model: Any) -> None:
    """Compares the text positions in a file with those of a model of open_clip, which would interpolate all of them.

    Raises:
        ValueError: there are more or fewer.
    """
    given = state.get(TABLE, state.get(f"text.{TABLE}"))
    table = getattr(getattr(model, "text", model), TABLE, None)
    if given is not None and table is not None and len(given) != len(table):
        raise ValueError(
            f"its texts have up to {len(given)} tokens, the model's {len(table)}; choose a model of {len(given)}"
            + f", with backbone.stretch={STRETCH} for longer texts" * (len(given) < len(table))
        )


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a file in Long-CLIP's form, frozen first positions apart from the trained others, with one table."""
    table = torch.cat([state[TABLE][:KEPT], state[REST][KEPT:]])
    return {name: value for name, value in state.items() if name != REST} | {TABLE: table}
