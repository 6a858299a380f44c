from __future__ import annotations

import torch
from torch import nn

from everclip.modules.projector import Projector


def test_it_is_batch_normalisation_between_two_layers() -> None:
    torch.manual_seed(0)
    made, rows = Projector(3, 5), torch.randn(7, 3)
    with torch.no_grad():
        made.scale.normal_()
        made.shift.normal_()
    norm = nn.BatchNorm1d(5)
    norm.weight, norm.bias = made.scale, made.shift
    torch.testing.assert_close(made(rows), made.last(norm(made.first(rows)).relu()))


def test_a_single_row_gives_a_constant() -> None:
    made = Projector(3, 5)
    torch.testing.assert_close(made(torch.randn(1, 3)), made(torch.zeros(1, 3)))
