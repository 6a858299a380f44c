"""Stored sessions put to use: as a model in Python, or evaluated again on any sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from everclip.backbones.base import Backbone
from everclip.commands.encoder import Encoder
from everclip.commands.sequences import make_sequence, shorten
from everclip.config.build import build
from everclip.config.trust import trusted
from everclip.data.images import upright
from everclip.errors import ConfigError, MissingError, nearest
from everclip.methods.base import Method
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import CheckpointError, load_session, restore
from everclip.types import ClassSet, TaskSequence


class AdaptedModel:
    """A backbone as a method has adapted it up to some session, in evaluation mode.

    Attributes:
        method: with the stored state.
        classes: all classes seen up to that session.
        facts: the checkpoint's: session, digest, backbone, sequence, and `follows`, a digest of the records of the
            sessions before (format 3: `records`, these themselves).
    """

    def __init__(self, method: Method, classes: ClassSet, facts: dict[str, Any]) -> None:
        self.method = method.eval()
        self.classes = classes
        self.facts = facts

    @property
    def backbone(self) -> Backbone:
        """The backbone, adapted where the method adapts it."""
        return self.method.backbone

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Model input (B, 3, S, S) of pictures of any size, as a run prepares them."""
        resized = torch.stack([self.backbone.resize(upright(image)) for image in images])
        return self.backbone.normalize(resized.to(self.backbone.device))

    @torch.no_grad()
    def encode_image(self, images: Sequence[Image.Image]) -> Tensor:
        """Features (B, E) of length 1 of pictures."""
        return self.method.encode_image(self.preprocess(images))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features (N, E) of length 1 of texts."""
        return self.method.encode_text(texts)

    @torch.no_grad()
    def classify(self, images: Sequence[Image.Image], names: Sequence[str] | None = None) -> Tensor:
        """Probabilities (B, C) of pictures among class names; None: among all classes seen.

        Raises:
            ConfigError: a name that was not trained, of a method that scores trained classes only.
        """
        return self.method.logits(self.preprocess(images), self._classes(names)).softmax(dim=-1)

    def encoder(self) -> Encoder:
        """The same model in the forms that CLIP_benchmark and MTEB ask for."""
        return Encoder(self)

    def _classes(self, names: Sequence[str] | None) -> ClassSet:
        if names is None:
            return self.classes
        unknown = [name for name in names if name not in self.classes.names]
        if unknown and not self.method.open_vocabulary:
            hint = nearest(unknown[0], self.classes.names)
            raise ConfigError(f"{type(self.method).__name__} scores trained classes only, not {unknown[0]!r}{hint}")
        return self.classes.named(names)


def load(run_folder: str | Path, session: int = -1, *, device: str = "cpu", trust: Sequence[str] = ()) -> AdaptedModel:
    """The model of a run folder after a session.

    Args:
        run_folder: of a run, finished or not.
        session: index; negative ones count from the last stored.
        device: of the model.
        trust: packages besides `everclip` that the folder's `config.yaml` may name classes of, for methods of one's
            own. Nothing else is imported, whatever the folder says.

    Raises:
        MissingError: no such folder, session, data or weights.
        ConfigError: the configuration names code that is not trusted, or weights that are not those of the run.
        CheckpointError: the checkpoint is damaged.
    """
    return load_checkpoint(checkpoint_of(Path(run_folder), session), device=device, trust=trust)


def checkpoint_of(run_folder: Path, session: int) -> Path:
    """The checkpoint of a session; negative ones count from the last stored.

    Raises:
        MissingError: no such folder or session.
    """
    folder = RunFolder(run_folder)
    if not folder.path.is_dir():
        raise MissingError(f"{folder.path}: no such folder; give the folder of a run")
    stored = folder.checkpoints()
    numbers = list(stored)
    wanted = numbers[session] if -len(numbers) <= session < 0 else session
    if wanted not in stored:
        there = f" of session {session}; stored are {', '.join(map(str, numbers))}" if numbers else ""
        raise MissingError(f"{folder.path} holds no checkpoint{there}")
    return stored[wanted]


def load_checkpoint(path: Path, *, device: str = "cpu", trust: Sequence[str] = ()) -> AdaptedModel:
    """The model of a checkpoint inside a run folder, see `load`."""
    config = read_config(path, trust=trust)
    tensors, facts = load_session(path)
    backbone = build("backbone", config.backbone, load=True)
    if backbone.provenance["sha256"] != facts.get("backbone"):
        raise ConfigError(f"{path} belongs to other weights of {backbone.provenance['model']} than those found here")
    method = build("method", config.method, backbone)
    restore(method, tensors)
    try:
        classes = ClassSet.union([ClassSet(*(tuple(part) for part in group)) for group in facts["classes"]])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not say which classes were seen") from error
    return AdaptedModel(method.to(device), classes, facts)


def read_config(path: Path, *, sequence: bool = False, trust: Sequence[str] = ()) -> DictConfig:
    """Backbone and method of a checkpoint's run, which may be built, and the sequence if asked for; see `load`."""
    return trusted(_settings(path), ("backbone", "method", *(["sequence"] if sequence else [])), trust)


def read_sequence(path: Path, *, trust: Sequence[str] = ()) -> TaskSequence:
    """The task sequence of a checkpoint's run, judged by held-out training samples and cut short as that run was.

    Raises:
        MissingError: its data are not there.
        ConfigError: see `load`.
    """
    whole = ("validation", "max_sessions", "image_search", "limit", "overfit")
    config = trusted(_settings(path), ("sequence",), trust, whole)
    return shorten(make_sequence(config), config)


def _settings(path: Path) -> Path:
    """The configuration of a checkpoint's run."""
    settings = path.absolute().parent.parent / "config.yaml"
    if not path.is_file() or not settings.is_file():
        missing = settings if path.is_file() else path
        raise MissingError(f"{missing} is not there; expected a checkpoint in a run folder")
    return settings
