"""What methods train beside the backbone is computed in pieces too, where a loss needs a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.methods.base import Method
from everclip.methods.dclip import Dclip
from everclip.methods.l2p import L2p
from everclip.methods.ranking_adapter import RankingAdapter
from everclip.methods.unipt import Unipt
from everclip.types import Batch, Session
from tests.methods.pairs import pair_batch, pair_session
from tests.methods.test_cpe_clip import make_batch, make_session

TEXTS = ("a red star", "two boats", "a bee", "dots", "a blue ring on grey")


def extract(samples: object, encode: object) -> tuple[Tensor, Tensor]:
    return torch.randn(len(TEXTS), 5, 96), torch.zeros(len(TEXTS))


def ordered(backbone: OpenClip) -> tuple[Method, Session, Batch]:
    method = RankingAdapter(backbone, num_layers=1, num_relations=2, dropout=0.0)
    values = {"value": torch.arange(5.0)}
    return method, make_session(0), replace(make_batch([0, 0, 0, 1, 0]), targets=values)


def beside(backbone: OpenClip) -> tuple[Method, Session, Batch]:
    return Unipt(backbone), pair_session(), pair_batch(TEXTS)


def taught(backbone: OpenClip) -> tuple[Method, Session, Batch]:
    method = Dclip(backbone)
    method.loss = method.teacher_loss  # type: ignore[method-assign]  # the phase that trains no tower
    return method, pair_session(), pair_batch(TEXTS)


def pooled(backbone: OpenClip, form: str = "input") -> tuple[Method, Session, Batch]:
    method = L2p(backbone, form=form)  # type: ignore[arg-type]  # one of them
    return method, make_session(0), make_batch([0, 1, 2, 1, 0])


def prefixed(backbone: OpenClip) -> tuple[Method, Session, Batch]:
    return pooled(backbone, "prefix")


@pytest.mark.parametrize("make", [ordered, beside, taught, pooled, prefixed])
def test_pieces_give_the_same_step_with_less_kept(
    tiny: Callable[[], OpenClip], make: Callable[[OpenClip], tuple[Method, Session, Batch]]
) -> None:
    found, kept = [], []
    for pieces in (1, 5):
        torch.manual_seed(0)
        method, session, batch = make(tiny())
        method.begin_session(session, extract)  # type: ignore[arg-type]  # random features
        backbone, sizes = method.backbone, dict[int, int]()
        backbone.pieces = pieces

        def keep(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = torch.stack(list(method.loss(batch).values())).sum()
        loss.backward()
        assert (backbone.divided, backbone.pieces) == (pieces > 1, pieces)
        weights = {p.untyped_storage().data_ptr() for p in method.parameters()}
        kept.append(sum(size for place, size in sizes.items() if place not in weights))
        found.append([loss.detach(), *(p.grad for p in method.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert kept[1] < kept[0] / 2
