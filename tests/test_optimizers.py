"""How the optimiser of a configuration is made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from everclip.commands.parts import make_training


@pytest.mark.parametrize(
    ("words", "fused"),
    [
        pytest.param(["optimizer=adamw"], True, id="adamw"),
        pytest.param(["optimizer=sgd"], True, id="sgd"),
        pytest.param(["optimizer=adamw", "trainer.precision=16-mixed"], None, id="scaled gradients"),
        pytest.param(["optimizer=adamw", "+optimizer.foreach=true"], None, id="said otherwise"),
        pytest.param(["optimizer=adamw", "optimizer._target_=torch.optim.Adamax"], None, id="cannot"),
        pytest.param(["optimizer=adamw", "optimizer._target_=torch.optim.Adagrad"], None, id="not everywhere"),
    ],
)
def test_all_parameters_move_in_one_pass_where_they_can(
    words: list[str], fused: bool | None, compose: Callable[..., DictConfig]
) -> None:
    optimizer = make_training(compose(*words)).make_optimizer([nn.Parameter(torch.zeros(1))])
    assert optimizer.defaults.get("fused") is fused
