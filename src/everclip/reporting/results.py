"""Tables and figures from run folders; needs no model, and matplotlib only where it draws."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everclip import storage
from everclip.config.names import tells_apart
from everclip.digest import json_sha256
from everclip.metrics.protocol import Measure, Protocol
from everclip.reporting.formats import console
from everclip.reporting.grid import Cell, Column, Grid, Line, over_runs
from everclip.reporting.origin import differences
from everclip.reporting.plain import file_name, plain
from everclip.runs.folder import RunFolder
from everclip.runs.scores import confusion_of, protocol_of, table_of

TRAINED = Measure("trainable_parameters", "trained", "", 0)
CONSOLE_SESSIONS = 12  # columns of sessions that a terminal has room for


@dataclass(frozen=True)
class Result:
    """What a run folder says of a finished run."""

    folder: Path
    run: dict[str, Any]
    summary: dict[str, Any]

    @property
    def protocol(self) -> Protocol:
        """How its scores are summed up and shown."""
        return protocol_of(self.run, self.summary)

    @property
    def curve(self) -> list[float]:
        """The protocol's entry after each session, in %; empty if the summary does not say."""
        return [float(value) for value in self.summary.get(f"{self.protocol.entry}_per_session", ())]


def read_result(folder: RunFolder) -> Result | None:
    """The result in a run folder, None if the run is not finished."""
    run, summary = folder.read_run(), folder.read_summary()
    return Result(folder.path, run, summary) if run.get("state") == "finished" and summary else None


def labels_of(results: Sequence[Result]) -> list[str]:
    """One name per result: its method and whatever else tells the results apart; seeds share a name, nothing else does.

    Results of other weights, data, code or settings are never averaged: where the named differences do not tell two
    digests apart, the digest is added, and where a digest does not tell enough, what its runs differ in.
    """
    shared = set.intersection(*(set(result.run["overrides"]) for result in results))

    def name(result: Result) -> str:
        varied = [key for key in ("backbone", "sequence") if len({other.run[key] for other in results}) > 1]
        words = [result.run["method"], *(result.run[key] for key in varied)]
        kept = [word for word in result.run["overrides"] if word not in shared and tells_apart(word)]
        return plain(" ".join([*words, *kept]))

    groups: dict[tuple[str, ...], str] = {}
    for result in results:
        key = tuple(str(result.run[fact]) for fact in ("method", "backbone", "sequence", "digest"))
        groups.setdefault(key, name(result))
    taken = list(groups.values())
    unique = {key: f"{label} {key[-1]}" if taken.count(label) > 1 else label for key, label in groups.items()}
    labels = [unique[tuple(str(r.run[f]) for f in ("method", "backbone", "sequence", "digest"))] for r in results]
    return [
        plain(f"{name} ({word})") if word else name for name, word in zip(labels, differences(results), strict=True)
    ]


def session_line(records: Sequence[Mapping[str, Any]], sessions: int, protocol: Protocol) -> str:
    """One line about the last of some sessions: what its protocol shows of what was measured."""
    record = records[-1]
    classes = [f"{record['seen_classes']:4d} classes"] if record["seen_classes"] else []
    known = [measure for measure in protocol.line if record.get(measure.key) is not None]
    numbers = [f"{measure.heading} {record[measure.key]:6.{measure.digits}f}" for measure in known]
    for number, measure in enumerate(known):
        if (before := records[0].get(measure.before)) is not None:
            numbers[number] += f" ({before:.{measure.digits}f} before)"
    times = [f"{word} {record[f'{word}_seconds']:.1f} s" for word in ("train", "eval")]
    return "  ".join([f"session {record['index']}/{sessions - 1}", *classes, *numbers, *times])


def results_grid(groups: Mapping[str, Sequence[Result]], measures: Sequence[Measure], title: str = "") -> Grid:
    """One row per label: the protocol's entry per session and what follows from it, over seeds, the best marked.

    Args:
        groups: results by label, all of one protocol.
        measures: of their summaries.
        title: of the grid.

    Raises:
        ValueError: results of several protocols, which mean different things.
    """
    protocols = {result.protocol.name for results in groups.values() for result in results}
    if len(protocols) > 1:
        raise ValueError(f"one table cannot show results of the protocols {', '.join(sorted(protocols))}")
    sessions = max(len(result.curve) for results in groups.values() for result in results)
    columns = [Column("method", numeric=False), Column("seeds")]
    columns += [Column(str(session), better="high") for session in range(sessions)]
    columns += [Column(measure.heading, better=measure.better, digits=measure.digits) for measure in measures]
    lines = []
    for label, results in groups.items():
        curves = [result.curve + [None] * (sessions - len(result.curve)) for result in results]
        figures = [*zip(*curves, strict=True), *([r.summary.get(m.key) for r in results] for m in measures)]
        lines.append(Line([Cell(label), Cell(len(results)), *map(over_runs, figures)]))
    return Grid(title, columns, lines).with_best()


def results_table(results: Sequence[Result], width: int | None = None) -> str:
    """A Markdown table, one row per label: entry per session and the protocol's columns; mean ± std over seeds.

    Args:
        results: of one protocol.
        width: most columns of sessions, for a console: then the first, some in between, and the last; None for all.
    """
    groups: dict[str, list[Result]] = {}
    for label, result in zip(labels_of(results), results, strict=True):
        groups.setdefault(label, []).append(result)
    grid = results_grid(groups, [*results[0].protocol.columns, TRAINED])
    sessions = max(len(result.curve) for result in results)
    seeds = [1] if len(results) > len(groups) else []
    kept = [2 + session for session in spaced(sessions, width or sessions)]
    return console(grid.only([0, *seeds, *kept, *range(2 + sessions, len(grid.columns))]))


def spaced(count: int, most: int) -> list[int]:
    """At most so many of the first `count` numbers: 0, every k-th, and the last."""
    step = next(step for step in range(1, count + 1) if -(-count // step) + ((count - 1) % step > 0) <= most)
    return sorted({*range(0, count, step), count - 1})


def write_plots(folder: RunFolder) -> list[Path]:
    """Writes the figures of one run to `plots/`."""
    from everclip.reporting import figures

    run, records, plots = folder.read_run(), folder.read_sessions(), folder.path / "plots"
    protocol, method, title = protocol_of(run, folder.read_summary()), plain(run["method"]), plain(run["sequence"])
    curve = {method: [[record[protocol.entry] for record in records]]}
    matrix = {method: table_of(records).matrix(protocol.entry)}
    figure = figures.plot_curves(curve, title, protocol.title)
    written = figures.save_figure(figure, plots / f"{protocol.entry}_per_session")
    figure = figures.plot_matrices(matrix, f"{title}: {protocol.label}")
    written += figures.save_figure(figure, plots / f"{protocol.entry}_matrix")
    confusion = confusion_of(records)
    if confusion is not None and figures.is_confused(confusion):
        figure = figures.plot_confusion({method: confusion}, title)
        written += figures.save_figure(figure, plots / "confusion_between_sessions")
    return written


def write_sweep(results: Sequence[Result], outputs: Path) -> str:
    """Table, figure and list of runs per sequence, written to `outputs/sweeps/<sequence>-<digest of the runs>/`.

    Returns:
        The tables, as a console has room for them, and where they are.
    """
    from everclip.reporting import figures

    text = []
    for sequence, protocol in dict.fromkeys((result.run["sequence"], result.protocol) for result in results):
        members = [r for r in results if (r.run["sequence"], r.protocol) == (sequence, protocol)]
        digest = json_sha256(sorted(str(member.folder) for member in members))[:8]
        folder = outputs / "sweeps" / f"{file_name(sequence)}-{digest}"
        curves: dict[str, list[list[float]]] = {}
        for label, result in zip(labels_of(members), members, strict=True):
            curves.setdefault(label, []).append(result.curve)
        storage.write_text(folder / "table.md", results_table(members) + "\n")
        storage.write_text(folder / "runs.txt", "".join(f"{os.path.relpath(m.folder, folder)}\n" for m in members))
        figure = figures.plot_curves(curves, plain(sequence), protocol.title)
        figures.save_figure(figure, folder / f"{protocol.entry}_per_session")
        text += [f"{sequence}:", results_table(members, CONSOLE_SESSIONS), str(folder)]
    return "\n".join(text)
