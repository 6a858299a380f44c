from __future__ import annotations

import torch

from everclip.losses.orthogonality import orthogonality


def test_orthonormal_rows_cost_nothing() -> None:
    assert float(orthogonality(torch.eye(3, 5)[None])) == 0


def test_a_value_worked_out_by_hand() -> None:
    # Layer 0: products [[1, 1], [1, 2]] less the identity: (0 + 1 + 1 + 1) / 4. Layer 1: [[4, 0], [0, 1]]: 9 / 4.
    rows = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 1.0]]])
    assert float(orthogonality(rows)) == 0.75 + 2.25
