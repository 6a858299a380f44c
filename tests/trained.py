"""The run of two sessions that the contract suite and the golden figures look at, made once per method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from everclip.methods.base import Method
from everclip.runs.folder import RunFolder
from everclip.training.runner import Runner
from everclip.types import Session, TaskSequence
from tests.conftest import run_in

# Two steps in each session, over the same pictures.
WORDS = (
    "sequence.train_per_class=4",
    "train.batch_size=12",
    "max_sessions=2",
    "logger=csv",
    "trainer.log_every=1",
)


@dataclass
class Watched:
    """A method in the hands of the runner, and what was seen on the way.

    Attributes:
        method: as the last session left it.
        sequence: of two sessions.
        sessions: as the method was given them.
        steps: of each session.
        frozen: names of weights of the backbone that were not to be trained and have changed.
        without_gradient: names of parameters that a step left without a gradient.
        unmoved: names of parameters that a session was to train and has not changed.
    """

    method: Method
    sequence: TaskSequence
    sessions: list[Session] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    frozen: set[str] = field(default_factory=set)
    without_gradient: set[str] = field(default_factory=set)
    unmoved: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        backbone = self.method.backbone
        self._frozen = {name: p.clone() for name, p in backbone.named_parameters() if not p.requires_grad}
        self._before: dict[str, Tensor] = {}
        self._first("begin_session", self._begin)
        self._first("before_step", self._step)
        self._then("end_session", self._end)

    def _first(self, hook: str, look: Callable[..., None]) -> None:
        original = getattr(self.method, hook)

        @wraps(original)
        def watched(*arguments: Any) -> None:
            look(*arguments)
            original(*arguments)

        setattr(self.method, hook, watched)

    def _then(self, hook: str, look: Callable[..., None]) -> None:
        original = getattr(self.method, hook)

        @wraps(original)
        def watched(*arguments: Any) -> None:
            original(*arguments)
            look(*arguments)

        setattr(self.method, hook, watched)

    def _begin(self, session: Session, _: Any) -> None:
        self.sessions.append(session)
        self.steps.append(0)
        self._before = {}

    def _step(self) -> None:
        trained = {name: p for name, p in self.method.named_parameters() if p.requires_grad}
        if not self.steps[-1]:
            self._before = {name: p.detach().clone() for name, p in trained.items()}
        self.steps[-1] += 1
        self.without_gradient |= {name for name, p in trained.items() if p.grad is None}

    def _end(self, *_: Any) -> None:
        now = dict(self.method.named_parameters())
        self.unmoved |= {name for name, before in self._before.items() if now[name].equal(before)}
        backbone = dict(self.method.backbone.named_parameters())
        self.frozen |= {name for name, before in self._frozen.items() if not backbone[name].equal(before)}


@dataclass(frozen=True)
class Trained:
    """What a run of a method left: its name, its folder, and the method itself with what was seen of it."""

    name: str
    folder: RunFolder
    watched: Watched

    @property
    def method(self) -> Method:
        """As the last session left it."""
        return self.watched.method


def train(name: str, place: Path, cache_dir: Path) -> Trained:
    """Runs a method through two sessions as the command does, and watches it."""
    seen: list[Watched] = []
    original = Runner.run

    def run(self: Runner) -> dict[str, Any]:
        seen.append(Watched(self._method, self._sequence))
        return original(self)

    with patch.object(Runner, "run", run):
        folder = run_in(place / "whole", cache_dir, *WORDS, f"method={name}")
    return Trained(name, folder, *seen)
