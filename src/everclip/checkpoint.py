"""Session checkpoints: what was adapted, as tensors and JSON in one safetensors file; nothing in it can run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from everclip import storage
from everclip.digest import tensor_sha256
from everclip.errors import EverclipError
from everclip.methods.base import Method

FORMAT = 1
BACKBONE = "backbone."


class CheckpointError(EverclipError):
    """A checkpoint that cannot be used; says which file and why."""


class Adapted:
    """Tells what a method has adapted: everything of its own, and the backbone's tensors that are no longer as loaded.

    Comparing bytes, not flags, finds merged or averaged weights too.
    """

    def __init__(self, method: Method) -> None:
        self._method = method
        self._digests = {
            name: tensor_sha256(value) for name, value in self._state().items() if name.startswith(BACKBONE)
        }

    def _state(self) -> dict[str, Tensor]:
        return self._method.state_dict()

    def tensors(self) -> dict[str, Tensor]:
        """The adapted tensors by name, on the CPU."""
        return {
            name: value.detach().cpu().contiguous()
            for name, value in self._state().items()
            if self._digests.get(name) != tensor_sha256(value)
        }


def save_session(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint whole.

    Args:
        path: `checkpoints/session_<tt>.safetensors`.
        tensors: by name.
        meta: JSON-like facts: session, digest, backbone, sequence fingerprint, session records, global step.
    """
    header = {"everclip": json.dumps({"format": FORMAT, **meta}, sort_keys=True)}
    storage.write_bytes(path, save({name: tensor.clone() for name, tensor in tensors.items()}, metadata=header))


def load_session(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged, or of another program or format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("everclip", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {meta.get('format')}, this version reads format {FORMAT}")
    return tensors, meta


def restore(method: Method, tensors: Mapping[str, Tensor]) -> None:
    """Puts saved tensors into a freshly built method; parameters and buffers may have grown since.

    Raises:
        CheckpointError: a name that the method does not have.
    """
    known = method.state_dict()
    for name, value in tensors.items():
        if name not in known:
            raise CheckpointError(f"the checkpoint holds {name}, which {type(method).__name__} does not have")
        parent, _, attribute = name.rpartition(".")
        owner = method.get_submodule(parent)
        current = getattr(owner, attribute)
        if current.shape == value.shape:
            with torch.no_grad():
                current.copy_(value)
        elif isinstance(current, nn.Parameter):
            setattr(owner, attribute, nn.Parameter(value.to(current.device), requires_grad=current.requires_grad))
        else:
            setattr(owner, attribute, value.to(current.device))
