"""A watcher for tests that drive the engine by themselves."""

from __future__ import annotations

from collections.abc import Callable

from everclip.training.phases import PhaseState, Wish


class Unwatched:
    """Lets a phase run unseen."""

    wish = Wish.NONE

    def start(self, steps: int, steps_per_epoch: int) -> None:
        pass

    def ready(self) -> None:
        pass

    def after_step(self, losses: dict[str, float], lr: float, state: Callable[[], PhaseState], wish: Wish) -> None:
        pass
