"""SHA-256 of things, so that equal things are known as equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the JSON digest is needed where torch is not
    from torch import Tensor


def json_sha256(value: Any) -> str:
    """Hex digest of a JSON-like value, whatever the order of its keys."""
    return hashlib.sha256(_canonical(value)).hexdigest()


class ListDigest:
    """`json_sha256` of a list that grows, at the cost of what is added."""

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self._digest, self._separator = hashlib.sha256(b"["), b""
        for value in values:
            self.append(value)

    def append(self, value: Any) -> None:
        """Adds one more value to the list."""
        self._digest.update(self._separator + _canonical(value))
        self._separator = b","

    def hexdigest(self) -> str:
        """Of the list so far."""
        whole = self._digest.copy()
        whole.update(b"]")
        return whole.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def tensor_sha256(tensor: Tensor) -> str:
    """Hex digest of a tensor's type, shape and bytes."""
    import torch

    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex digest of a state dict, independent of the order of its entries."""
    return json_sha256({name: tensor_sha256(tensor) for name, tensor in state.items()})
