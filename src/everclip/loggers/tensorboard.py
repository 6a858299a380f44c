"""TensorBoard as a mirror."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everclip.loggers.base import RunLogger, Sample


class TensorBoardLogger(RunLogger):
    """Event files in `tensorboard/`, begun anew with every process; `final/*` at step 0."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def train(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def session(self, metrics: Mapping[str, float], index: int, step: int, samples: Sequence[Sample] = ()) -> None:
        self.train(metrics, index)

    def final(
        self, summary: Mapping[str, float], plots: Sequence[Path], matrices: Mapping[str, Any], confusion: Any
    ) -> None:
        self.train({f"final/{name}": value for name, value in summary.items()}, 0)

    def close(self, failed: bool = False) -> None:
        self._writer.close()
