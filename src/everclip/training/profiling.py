"""Where the time of training goes, by Lightning's profilers."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler


def make_profiler(kind: str, folder: Path, name: str) -> Profiler | None:
    """A profiler that writes below a folder; `pytorch` also a trace for Perfetto or chrome://tracing.

    Args:
        kind: `off`, `simple`, `advanced` or `pytorch`.
        folder: made if there is something to write.
        name: of the files.
    """
    if kind == "off":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "simple":
        return SimpleProfiler(folder, name)
    return AdvancedProfiler(folder, name) if kind == "advanced" else PyTorchProfiler(folder, name)
