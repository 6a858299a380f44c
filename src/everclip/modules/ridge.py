"""Ridge regression of class indicators that goes on with new data and new classes; its result is that on all data.

Both forms compute and keep their solution in float64: a recursion accumulates rounding.

Source: arXiv 2406.18868, equations 6 to 12 (linghan1997/Regression-based-Analytic-Incremental-Learning @ eaac644,
`primal_RAIL.py`, `dual_RAIL.py`, `utils.py`).

N new inputs, M inputs so far, E their width, D random features, C classes so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.errors import ConfigError

BLOCK = 256  # inputs per update of the inverse
MOST_EQUATIONS = 32_768  # of the dual form: three matrices of this size squared are 26 GB


class RecursiveRidge(nn.Module):
    """Primal form: a linear map (D, C) of fixed random ReLU features; no input is kept, the state is quadratic in D.

    Args:
        width: E.
        hidden_dim: D.
        ridge: weight of the penalty.
    """

    projection: Tensor
    inverse: Tensor
    weights: Tensor

    def __init__(self, width: int, hidden_dim: int, ridge: float) -> None:
        super().__init__()
        self.ridge = ridge
        bound = 1 / math.sqrt(width)  # as `nn.Linear` begins
        self.register_buffer("projection", torch.empty(width, hidden_dim).uniform_(-bound, bound))
        self.register_buffer("inverse", torch.empty(0, 0, dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(hidden_dim, 0, dtype=torch.float64))

    def expand(self, inputs: Tensor) -> Tensor:
        """Random features (N, D) of inputs (N, E)."""
        return (inputs.double() @ self.projection.double()).relu()

    def fit(self, inputs: Tensor, columns: Tensor, num_classes: int) -> None:
        """Adds inputs (N, E) of the classes in `columns` (N,); there are `num_classes` classes from now on."""
        if not len(self.inverse):
            eye = torch.eye(len(self.weights), dtype=torch.float64, device=self.weights.device)
            self.inverse = eye / self.ridge
        self.weights = F.pad(self.weights, (0, num_classes - self.weights.shape[1]))
        for part, labels in zip(inputs.split(BLOCK), columns.split(BLOCK), strict=True):
            hidden, target = self.expand(part), F.one_hot(labels, num_classes).double()
            reach = hidden @ self.inverse
            inner = torch.eye(len(part), dtype=torch.float64, device=reach.device) + reach @ hidden.T
            gain = torch.cholesky_solve(reach, torch.linalg.cholesky(inner)).T  # the new inverse times `hidden`
            self.inverse.addmm_(gain, reach, alpha=-1)  # in place: it may be most of the memory
            self.weights = self.weights + gain @ (target - hidden @ self.weights)

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`."""
        hidden_dim = len(self.weights)
        return hidden_dim * (hidden_dim + sum(sizes)) * self.weights.itemsize

    def forward(self, inputs: Tensor) -> Tensor:
        """Regressed class indicators (B, C) of inputs (B, E)."""
        return self.expand(inputs) @ self.weights


class KernelRidge(nn.Module):
    """Dual form with the kernel exp(-gamma |x - y|^2): keeps all inputs, and solves a system of M equations anew.

    Args:
        width: E.
        gamma: of the kernel.
        ridge: weight of the penalty.
    """

    inputs: Tensor
    columns: Tensor
    weights: Tensor

    def __init__(self, width: int, gamma: float, ridge: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.ridge = ridge
        self.register_buffer("inputs", torch.empty(0, width))
        self.register_buffer("columns", torch.empty(0, dtype=torch.long))
        self.register_buffer("weights", torch.empty(0, 0, dtype=torch.float64))

    def kernel(self, inputs: Tensor) -> Tensor:
        """Kernel values (N, M) of inputs (N, E) with those kept."""
        exact = "donot_use_mm_for_euclid_dist"  # the expanded square would lose half the digits
        return torch.cdist(inputs.double(), self.inputs.double(), compute_mode=exact).square().mul(-self.gamma).exp()

    def fit(self, inputs: Tensor, columns: Tensor, num_classes: int) -> None:
        """Adds inputs (N, E) of the classes in `columns` (N,); there are `num_classes` classes from now on.

        Raises:
            ConfigError: too many inputs to solve for.
        """
        if (count := len(self.inputs) + len(inputs)) > MOST_EQUATIONS:
            raise ConfigError(
                f"kernel ridge regression on {count} pictures solves as many equations, at most {MOST_EQUATIONS} are "
                "reasonable: use method.form=primal, or a sequence with few shots"
            )
        self.inputs, self.columns = torch.cat([self.inputs, inputs]), torch.cat([self.columns, columns])
        system = self.kernel(self.inputs)
        system.diagonal().add_(self.ridge)
        target = F.one_hot(self.columns, num_classes).double()
        self.weights = torch.cholesky_solve(target, torch.linalg.cholesky(system))

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`."""
        row = self.inputs.shape[1] * self.inputs.itemsize + self.columns.itemsize + sum(sizes) * self.weights.itemsize
        return num_images * row

    def forward(self, inputs: Tensor) -> Tensor:
        """Regressed class indicators (B, C) of inputs (B, E)."""
        return self.kernel(inputs) @ self.weights
