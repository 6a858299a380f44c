"""A mirror of a run for other tools. The run folder itself stays the record.

A mirror is filled anew from the record when a run goes on, because none of them can be cut back to a step: W&B does not
resume offline runs (wandb/wandb issue 2423), and TensorBoard's purging knows one axis, not steps and sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """One test picture and what the method takes it for.

    Attributes:
        image: (H, W, 3) uint8.
        label: true class name.
        guesses: the likeliest class names with their probability, best first.
    """

    image: NDArray[np.uint8]
    label: str
    guesses: tuple[tuple[str, float], ...]


class RunLogger:
    """One mirror; by default it ignores everything.

    Attributes:
        listens: whether it looks at sessions; what is told of one takes time to find out.
    """

    @property
    def listens(self) -> bool:
        return True

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        """Training metrics (`train/...`) at a global step."""

    def session(self, metrics: Mapping[str, float], index: int, step: int, samples: Sequence[Sample] = ()) -> None:
        """Metrics (`session/...`) after a session that ended at a global step, and how some pictures were seen."""

    def checkpoint(self, path: Path, session: int) -> None:
        """A session's checkpoint was written; told before the session itself."""

    def final(
        self, summary: Mapping[str, float], plots: Sequence[Path], matrices: Mapping[str, Any], confusion: Any
    ) -> None:
        """Scalars of the whole run, figures, and tables.

        Args:
            summary: by name, without `final/`.
            plots: figures; each as PNG and PDF.
            matrices: by the name of their score, (T, J) in %, NaN where not evaluated.
            confusion: (S, S) test pictures by the session of their class and of the class they were taken for; None
                where that was not recorded.
        """

    def flush(self) -> None:
        """What was told so far must survive the process; called right before a checkpoint is written."""

    def close(self, failed: bool = False) -> None:
        """Nothing more will come from this process, `failed` if the run did not reach its end."""
