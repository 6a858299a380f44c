"""Image-text pairs for methods that learn whatever a session asks for."""

from __future__ import annotations

from dataclasses import replace

import torch

from everclip.objectives.contrastive import Contrastive
from everclip.types import NO_CLASS, NO_CLASSES, Batch, Session
from tests.methods.test_cpe_clip import make_batch, make_session


def pair_session(index: int = 0) -> Session:
    """A session without classes."""
    return replace(make_session(index), new=NO_CLASSES, seen=NO_CLASSES, objective=Contrastive())


def pair_batch(texts: tuple[str, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Random pictures with these captions."""
    batch = make_batch([NO_CLASS] * len(texts), seed)
    return replace(batch, texts=texts, images=batch.images.to(dtype))
