"""A method whose second phase is prepared from what the first has trained; as a program, its runs on two processes.

`python -m tests.self_training FOLDER CACHE` runs it whole, and stopped in its prepared phase and called again.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.backbones.base import Backbone
from everclip.errors import Preempted
from everclip.methods.base import Extract, Method, Preparation
from everclip.training.monitor import Monitor
from everclip.types import Batch, ParameterGroup, Phase, Session
from tests.conftest import run_in

# 4 steps per phase in the base session, 2 in the next one.
WORDS = (
    "method=zero_shot",
    "method._target_=tests.self_training.SelfTraining",
    "max_sessions=2",
    "logger=csv",
    "trainer.log_every=1",
    "optimizer.lr=0.01",
    "scheduler=cosine",
)


class SelfTraining(Method):
    """A layer on image features learns from labels, then from what it made of them, then from labels again."""

    all_parameters_used = False

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.layer = nn.Parameter(torch.zeros(backbone.embed_dim, backbone.embed_dim))
        self.bias = nn.Parameter(torch.empty(0))  # grows in the preparation
        self.tuned = (dict(backbone.named_parameters())["model.visual.ln_post.weight"],)  # the backbone's alone

    def encode_image(self, images: Tensor) -> Tensor:
        features = super().encode_image(images)
        return F.normalize(features + features @ self.layer, dim=-1)

    def begin_session(self, session: Session, extract: Extract) -> None:
        self.classes = session.new
        self.tuned[0].requires_grad_(True)

    def phases(self, session: Session) -> tuple[Phase | Preparation, ...]:
        first = Phase("labels", parameters=(self.layer, *self.tuned))
        return first, partial(self.prepare, session), Phase("again", parameters=(self.layer,))

    def prepare(self, session: Session, extract: Extract) -> Phase:
        self.tuned[0].requires_grad_(False)
        features, _ = extract(session.train, self.encode_image)
        with torch.no_grad():
            self.targets = (20 * features @ self.class_features(self.classes).T).softmax(dim=1)
        self.targets = self.targets * (torch.rand(len(self.targets), 1) > 0.3)  # some are not trusted
        self.bias = nn.Parameter(torch.zeros(len(self.classes), device=features.device))
        groups = (ParameterGroup((self.bias,), lr=0.1, weight_decay=0.1), ParameterGroup((self.layer,)))
        return Phase("own_labels", parameters=groups, loss=self.self_loss)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": self.cross_entropy(batch, self.classes)}

    def self_loss(self, batch: Batch) -> dict[str, Tensor]:
        noise = 0.1 * torch.randn(len(self.classes))
        logits = self.logits(batch.images, self.classes) + self.bias + noise.to(self.bias.device)
        return {"self": -(self.targets[batch.indices] * logits.log_softmax(dim=1)).sum(dim=1).mean()}


if __name__ == "__main__":
    folder, cache = Path(sys.argv[1]), Path(sys.argv[2])
    words = (*WORDS, "max_sessions=1", "trainer=ddp", "trainer.accelerator=cpu")
    run_in(folder / "whole", cache, *words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "stop", property(lambda self: self.step == 5))
        with pytest.raises(Preempted):
            run_in(folder / "stopped", cache, *words)
    run_in(folder / "stopped", cache, *words)
