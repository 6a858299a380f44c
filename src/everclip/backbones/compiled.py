"""torch.compile with a way back."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch._dynamo.exc import TorchDynamoException

log = logging.getLogger("everclip")
P = ParamSpec("P")
R = TypeVar("R")
VARIANTS = 32  # tower, gradients or none, last block or not, one picture or several: more than torch's limit of 8


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function compiled at its first call, or, with a warning, as it is where it cannot be compiled."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    chosen = torch.compile(function, dynamic=True)  # prompts grow with the sessions

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal chosen
        try:
            return chosen(*args, **kwargs)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            log.warning("trainer.compile=true: torch.compile does not work here (%s); going on without", reason)
            chosen = function
            return function(*args, **kwargs)

    return call
