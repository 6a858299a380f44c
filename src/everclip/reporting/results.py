"""Tables and figures from run folders; needs no model, and matplotlib only where it draws."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from everclip import storage
from everclip.digest import json_sha256
from everclip.runs.folder import RunFolder, accuracy_of, confusion_of


@dataclass(frozen=True)
class Result:
    """What a run folder says of a finished run."""

    folder: Path
    run: dict[str, Any]
    summary: dict[str, Any]

    @property
    def curve(self) -> list[float]:
        """Accuracy over all seen classes after each session, in %."""
        return [float(value) for value in self.summary["accuracy_per_session"]]


def read_result(folder: RunFolder) -> Result | None:
    """The result in a run folder, None if the run is not finished."""
    run, summary = folder.read_run(), folder.read_summary()
    return Result(folder.path, run, summary) if run.get("state") == "finished" and summary else None


def labels_of(results: Sequence[Result]) -> list[str]:
    """One name per result: its method and whatever else tells the results apart; seeds share a name, nothing else does.

    Results of other weights or settings are never averaged: where the named differences do not tell two digests apart,
    the digest is added.
    """
    shared = set.intersection(*(set(result.run["overrides"]) for result in results))

    def name(result: Result) -> str:
        varied = [key for key in ("backbone", "sequence") if len({other.run[key] for other in results}) > 1]
        words = [result.run["method"], *(result.run[key] for key in varied)]
        kept = [word for word in result.run["overrides"] if word not in shared and not _is_silent(word)]
        return " ".join([*words, *kept])

    groups: dict[tuple[str, ...], str] = {}
    for result in results:
        key = tuple(str(result.run[fact]) for fact in ("method", "backbone", "sequence", "digest"))
        groups.setdefault(key, name(result))
    taken = list(groups.values())
    unique = {key: f"{label} {key[-1]}" if taken.count(label) > 1 else label for key, label in groups.items()}
    return [unique[tuple(str(r.run[f]) for f in ("method", "backbone", "sequence", "digest"))] for r in results]


def session_line(record: dict[str, Any], sessions: int) -> str:
    """One line about a finished session."""
    novel = "" if record["novel_accuracy"] is None else f"  novel {record['novel_accuracy']:6.2f}"
    zero_shot = "" if record["zero_shot_accuracy"] is None else f"  zero-shot {record['zero_shot_accuracy']:6.2f}"
    return (
        f"session {record['index']}/{sessions - 1}  {record['seen_classes']:4d} classes  "
        f"accuracy {record['accuracy']:6.2f}  base {record['base_accuracy']:6.2f}{novel}{zero_shot}  "
        f"train {record['train_seconds']:.1f} s  eval {record['eval_seconds']:.1f} s"
    )


def _is_silent(override: str) -> bool:
    """Whether an override changes no result, or one that a label shows anyway."""
    key = override.lstrip("+~").split("=")[0]
    return key in ("seed", "method", "backbone", "sequence", "log_level") or re.split(r"[./]", key)[0] in (
        "paths", "logger", "trainer", "hydra",
    )  # fmt: skip


def results_table(results: Sequence[Result]) -> str:
    """A Markdown table, one row per label: accuracy per session, average, performance drop; mean ± std over seeds."""
    named = list(zip(labels_of(results), results, strict=True))
    labels = list(dict.fromkeys(label for label, _ in named))
    sessions = max(len(result.curve) for result in results)
    table = Table(box=box.MARKDOWN, show_edge=True)
    table.add_column("method", no_wrap=True)
    if len(results) > len(labels):
        table.add_column("seeds", justify="right")
    for session in range(sessions):
        table.add_column(str(session), justify="right", no_wrap=True)
    for column in ("average", "PD", "trained"):
        table.add_column(column, justify="right", no_wrap=True)
    for label in labels:
        runs = [result for name, result in named if name == label]
        curves = np.full((len(runs), sessions), np.nan)
        for row, result in zip(curves, runs, strict=True):
            row[: len(result.curve)] = result.curve
        cells = [label, *([str(len(runs))] if len(results) > len(labels) else [])]
        cells += [mean_std(curves[:, session]) for session in range(sessions)]
        cells += [
            mean_std([result.summary[key] for result in runs]) for key in ("average_accuracy", "performance_drop")
        ]
        table.add_row(*cells, f"{runs[0].summary['trainable_parameters']:,}")
    console = Console(file=io.StringIO(), width=2000, no_color=True)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # the StringIO given above
    return "\n".join(line.rstrip() for line in lines if line.strip())


def mean_std(values: Sequence[float] | np.ndarray) -> str:
    """`mean` of one value, `mean ± std` (sample standard deviation) of several, two decimals; empty for NaN."""
    numbers = np.asarray(values, dtype=float)
    if np.isnan(numbers).any():
        return ""
    return f"{numbers[0]:.2f}" if len(numbers) == 1 else f"{numbers.mean():.2f} ± {numbers.std(ddof=1):.2f}"


def write_plots(folder: RunFolder) -> list[Path]:
    """Writes the figures of one run to `plots/`."""
    from everclip.reporting import figures

    run, records, plots = folder.read_run(), folder.read_sessions(), folder.path / "plots"
    method, title = str(run["method"]), str(run["sequence"])
    curve = figures.plot_curves({method: [[record["accuracy"] for record in records]]}, title)
    accuracy = figures.plot_accuracy({method: accuracy_of(records)}, title)
    written = figures.save_figure(curve, plots / "accuracy_per_session")
    written += figures.save_figure(accuracy, plots / "accuracy_matrix")
    confusion = confusion_of(records)
    if np.any(confusion != np.diag(np.diag(confusion))):  # else every task has classes of its own to choose from
        figure = figures.plot_confusion({method: confusion}, title)
        written += figures.save_figure(figure, plots / "confusion_between_sessions")
    return written


def write_sweep(results: Sequence[Result], outputs: Path) -> str:
    """Table, figure and list of runs per sequence, written to `outputs/sweeps/<sequence>-<digest of the runs>/`.

    Returns:
        The tables and where they are, as text.
    """
    from everclip.reporting import figures

    text = []
    for sequence in dict.fromkeys(result.run["sequence"] for result in results):
        members = [result for result in results if result.run["sequence"] == sequence]
        folder = outputs / "sweeps" / f"{sequence}-{json_sha256(sorted(str(m.folder) for m in members))[:8]}"
        table = results_table(members)
        curves: dict[str, list[list[float]]] = {}
        for label, result in zip(labels_of(members), members, strict=True):
            curves.setdefault(label, []).append(result.curve)
        storage.write_text(folder / "table.md", table + "\n")
        storage.write_text(folder / "runs.txt", "".join(f"{os.path.relpath(m.folder, folder)}\n" for m in members))
        figures.save_figure(figures.plot_curves(curves, str(sequence)), folder / "accuracy_per_session")
        text += [f"{sequence}:", table, str(folder)]
    return "\n".join(text)
