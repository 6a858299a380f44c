"""Adapters: small bottlenecks in every transformer block are trained; every session goes on with the same.

`pfeiffer` has one at the MLP, `houlsby` a second one at the attention. `sequential` ones read what the layer puts out,
`parallel` ones what it reads; both add to the layer's output, so at first nothing changes. Trained: the adapters and
the norm before each (255,132 values on ViT-B/16 with `pfeiffer`), by cross-entropy over the session's own classes.

Family: small parts in the towers.
Source: arXiv 1902.00751 (Houlsby), 2005.00247 (Pfeiffer); as compared in arXiv 2312.03694 (umbertocappellazzo/PETL_AST
@ 1fe23af, src/AST_adapters.py).
Differs: the code begins with zeros in both layers, which cannot learn; here the first one is drawn. Its sequential form
without the residual, which takes the layer's own output away, and its parallel form with one do not begin as the
identity and are left out, as is the Conformer block. Classes are text features, so no head and no last norm is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from everclip.backbones.base import Backbone
from everclip.methods.families import TowerTuning
from everclip.modules import block_parts
from everclip.modules.fine_tuning import LabelSpace
from everclip.modules.tower_blocks import Towers, adapt_blocks


class Adapter(TowerTuning):
    """Bottlenecks in the blocks of a frozen backbone.

    Args:
        backbone: with access to the blocks of the adapted towers.
        reduction: width of a tower by that of its bottlenecks.
        placement: `pfeiffer` or `houlsby`.
        form: `sequential` or `parallel`.
        norms: train the norms before the adapted layers too.
        towers: which are adapted.
        layers: numbers of the adapted blocks in each tower, from 0, or negative ones, from the last; None: all.
        label_space: see `LabelSpace`.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        reduction: Annotated[float, Field(ge=1)] = 96,
        placement: Literal["pfeiffer", "houlsby"] = "pfeiffer",
        form: Literal["sequential", "parallel"] = "parallel",
        norms: bool = True,
        towers: Towers = "both",
        layers: Sequence[int] | None = None,
        label_space: LabelSpace = "current",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        parts = []
        for blocks in adapt_blocks(backbone, towers, layers).values():
            for block in blocks:
                width = block.ln_2.normalized_shape[0]
                beside = {"attention": block.ln_1, "mlp": block.ln_2} if placement == "houlsby" else {"mlp": block.ln_2}
                for layer, norm in beside.items():
                    reads: Literal["input", "output"] = "input" if form == "parallel" else "output"
                    part = block_parts.Adapter(width, max(1, round(width / reduction)), reads)
                    block.parts[layer] = part
                    parts.append(part)
                    norm.requires_grad_(norms)
        super().__init__(backbone, label_space, label_smoothing, parts)
