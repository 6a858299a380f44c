"""Checkpoints: what was adapted, as tensors and JSON in one safetensors file; nothing in it can run.

A session's checkpoint is written when its training has ended; `progress` says how far a session in training is.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from everclip import storage
from everclip.digest import json_sha256, state_sha256, tensor_sha256
from everclip.errors import EverclipError, NotFiniteError
from everclip.methods.base import Method
from everclip.training.phases import PhaseState

FORMAT = 4
READABLE = (3, FORMAT)
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
        self._changed: set[str] = set()

    def _state(self) -> dict[str, Tensor]:
        # Weights that are divided among processes are frozen.
        return {n: value for n, value in self._method.state_dict().items() if not isinstance(value, DTensor)}

    def tensors(self) -> dict[str, Tensor]:
        """The adapted tensors by name, on the CPU."""
        state = self._state()
        self._changed = {n for n, value in state.items() if self._digests.get(n) != tensor_sha256(value)}
        return _on_cpu(state, self._changed)

    def restored(self, names: Iterable[str]) -> None:
        """These tensors came from a checkpoint."""
        self._changed = set(names)

    def between_steps(self) -> dict[str, Tensor]:
        """The same inside a phase, without reading the whole backbone.

        There a tensor of the backbone changes only if it requires a gradient, see `Method`.
        """
        trained = {name for name, parameter in self._method.named_parameters() if parameter.requires_grad}
        state = self._state()
        own = {name for name in state if name not in self._digests}
        return _on_cpu(state, own | trained | self._changed)

    def require_finite(self, when: str) -> None:
        """Refuses a state from which no step could go on; on every process, as all have the same.

        Raises:
            NotFiniteError: a value is NaN, or a parameter so large that the sum of its squares is infinite.
        """
        parameters = {name for name, _ in self._method.named_parameters()}
        state = {name: value for name, value in self._state().items() if value.is_floating_point()}
        bad = [
            value.float().square().sum().isfinite().logical_not() if name in parameters else value.isnan().any()
            for name, value in state.items()
        ]
        if names := [name for name, found in zip(state, torch.stack(bad).tolist(), strict=True) if found]:
            raise NotFiniteError(
                f"{when}, {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} of "
                f"{type(self._method).__name__} are not finite, or too large to go on from; lower optimizer.lr or use "
                "trainer.precision=32-true"
            )


def _on_cpu(state: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items() if name in names}


@dataclass(frozen=True)
class Progress:
    """How far the training of a session is.

    Attributes:
        session: index.
        phase: number of the phase that is being optimised; all earlier ones are done.
        global_step: steps of the whole run.
        seconds: of training spent on the session.
        losses: means of the earlier phases.
        recent: losses of the phase's last steps, for their mean.
        random_state: see `random_state`.
        state: of the phase.
        prepared: whether the phase goes on only when it is prepared again, from the record of its start.
    """

    session: int
    phase: int
    global_step: int
    seconds: float
    losses: dict[str, float]
    recent: dict[str, list[float]]
    random_state: dict[str, Any]
    state: PhaseState = field(default_factory=PhaseState)
    prepared: bool = False


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's generators, JSON-like."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, _text(keys), position, has_gauss, cached],
        "torch": [_text(state.numpy()) for state in (torch.get_rng_state(), *devices)],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts the generators where `random_state` found them."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.frombuffer(base64.b64decode(keys), np.uint32), position, has_gauss, cached))
    cpu, *devices = (torch.from_numpy(np.frombuffer(base64.b64decode(t), np.uint8).copy()) for t in state["torch"])
    torch.set_rng_state(cpu)
    if devices and len(devices) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(devices)


def _text(values: Any) -> str:
    return base64.b64encode(values.tobytes()).decode()


def save_progress(path: Path, tensors: Mapping[str, Tensor], progress: Progress, meta: Mapping[str, Any]) -> None:
    """Writes how far a session is, whole."""
    facts = vars(progress) | {"state": {"step": progress.state.step, "facts": progress.state.facts}}
    named = {f"method/{name}": value for name, value in tensors.items()}
    named |= {f"optimizer/{name}": value for name, value in progress.state.tensors.items()}
    save_session(path, named, {**meta, "progress": facts})


def load_progress(path: Path) -> tuple[dict[str, Tensor], Progress, dict[str, Any]]:
    """The method's tensors, how far the session is, and the facts of `load_session`.

    Raises:
        CheckpointError: as in `load_session`.
    """
    named, meta = load_session(path)
    groups: dict[str, dict[str, Tensor]] = {"method": {}, "optimizer": {}}
    try:
        for name, value in named.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = value
        facts = dict(meta["progress"])
        state = PhaseState(**facts.pop("state"), tensors=groups["optimizer"])
        return groups["method"], Progress(**facts, state=state), meta
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no record of progress: {error}") from error


def save_session(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint whole, with a checksum of all it holds: safetensors itself has none.

    Args:
        path: `checkpoints/session_<tt>.safetensors`.
        tensors: by name.
        meta: JSON-like facts: session, digest, backbone, sequence fingerprint, global step, and `follows`, the digest
            of the records of the sessions before.
    """
    facts = json.dumps({"format": FORMAT, **meta}, sort_keys=True)
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    storage.write_bytes(path, save(own, metadata={"everclip": facts, "sha256": _checksum(facts, own)}))


def _checksum(facts: str, tensors: Mapping[str, Tensor]) -> str:
    return json_sha256([facts, state_sha256(tensors)])


def load_session(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged, or of another program or format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            facts = header.get("everclip", "{}")
            meta = json.loads(facts)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if meta.get("format") not in READABLE:
        raise CheckpointError(f"{path} has format {meta.get('format')}, this version reads formats {READABLE}")
    if header.get("sha256") != _checksum(facts, tensors):
        raise CheckpointError(f"{path} is damaged: what it holds is not what was written")
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
