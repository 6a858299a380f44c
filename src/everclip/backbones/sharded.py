"""Transformer blocks whose frozen weights are divided among processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from everclip.errors import ConfigError


def shard(block: nn.Module, mesh: DeviceMesh, run: Callable[..., Tensor]) -> None:
    """Divides the frozen weights of a block, in place; every process holds them whole only while the block computes.

    What is trained stays whole on every process. The block's own forward and `run_sharded` work afterwards.

    Args:
        block: not yet divided.
        mesh: the processes.
        run: computes the block, for `run_sharded`.

    Raises:
        ConfigError: nothing is frozen, or torch is older than 2.7.
    """
    if "ignored_params" not in signature(fully_shard).parameters:
        raise ConfigError("trainer.strategy=fsdp needs torch 2.7 or newer")
    trained = {parameter for parameter in block.parameters() if parameter.requires_grad}
    if len(trained) == len(list(block.parameters())):
        raise ConfigError(
            "trainer.strategy=fsdp divides frozen weights, and this method trains all; use trainer.strategy=ddp"
        )
    fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    block.run = partial(run, block)  # type: ignore[assignment]  # a method, not a part
    register_fsdp_forward_method(block, "run")


def run_sharded(block: Any, *args: Any, **options: Any) -> Tensor:
    """What the `run` of a divided block computes."""
    output: Tensor = block.run(*args, **options)
    return output
