"""The command `everclip-interpolate`: what lies between two stored models, as a table, as figures and as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from everclip.commands.arguments import Parser, add_points
from everclip.errors import EverclipError
from everclip.reporting.console import quieten_libraries, tell_error
from everclip.reporting.formats import console
from everclip.reporting.grid import Cell, Column, Grid
from everclip.reporting.grid import Line as GridLine

if TYPE_CHECKING:
    from everclip.commands.line import Line
    from everclip.losses.sharpness import Loss
    from everclip.training.engine import Engine
    from everclip.types import TaskSequence

BARRIER = 0.01  # of a straggler: nats above the straight line between the losses at the ends


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `everclip-interpolate`; returns the exit code."""
    parser = Parser(
        prog="everclip-interpolate",
        description="Evaluates the models between two stored ones, (1 - alpha) * A + alpha * B, on the tasks of B's "
        "run, and says how sharp the loss is there, over all weights and layer by layer, and which layers leave the "
        "straight line when they alone are moved. Low-rank updates are folded into the weights they belong to, so that "
        "layers with adapters are as sharp as these weights are; everclip-sharpness moves what is stored.",
    )
    parser.add_argument("start", metavar="A", help="a run folder, a checkpoint in one, or pretrained")
    parser.add_argument("end", metavar="B", help="a run folder or a checkpoint in one")
    parser.add_argument("--alphas", type=float, nargs="+", default=[step / 10 for step in range(11)], metavar="ALPHA")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: the folder of B's run")
    add_points(parser)
    options = parser.parse_args(arguments)
    try:
        interpolate(options)
    except EverclipError as error:
        tell_error("everclip-interpolate", error)
        return error.exit_code
    return 0


def interpolate(options: argparse.Namespace) -> None:
    """Prints and writes the curve, the layers, and their figures."""
    from everclip import storage
    from everclip.commands.line import line, name_of, path_of
    from everclip.commands.load import read_sequence
    from everclip.commands.points import losses_on_points
    from everclip.reporting import line_figures as draw
    from everclip.reporting.figures import save_figure
    from everclip.training.engine import Engine

    quieten_libraries()
    between, path = line(options.start, options.end, options.trust), path_of(options.end)
    engine = Engine(accelerator=options.accelerator, features="off")
    engine.place(between.method)
    sequence = read_sequence(path, trust=options.trust)
    session = int(between.facts["session"])
    losses = losses_on_points(
        between.method, sequence, session, options.points, seed=options.seed, normalize=options.normalize
    )
    rows = curve(between, sequence, session, engine, losses, options)
    layers = alone(between, losses, options.alphas)
    target = (options.output or path.parent.parent) / f"interpolation_{name_of(options.start, path)}_to_{path.stem}"
    settings = {
        key: getattr(options, key) for key in ("start", "end", "points", "kind", "radius", "steps", "normalize")
    }
    storage.write_json(Path(f"{target}.json"), {**settings, "curve": rows, "layers": layers})
    title = f"from {name_of(options.start, path)} to {path.stem}"
    figures = save_figure(draw.plot_line(rows, title), target)
    if losses:
        marked = [layer for layer, facts in layers.items() if facts["straggler"]]
        figures += save_figure(draw.plot_layers(rows, marked, title), Path(f"{target}_layers"))
    sys.stdout.write(f"{console(curve_grid(rows))}\n")
    if layers:
        sys.stdout.write(f"\n{console(layer_grid(rows, layers))}\n")
    sys.stdout.write("".join(f"{file.absolute()}\n" for file in (Path(f"{target}.json"), *figures)))


def curve(
    between: Line,
    sequence: TaskSequence,
    session: int,
    engine: Engine,
    losses: Sequence[Loss],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Scores, losses and sharpness at every share of the way."""
    from everclip.commands.points import sharpness_of, task_losses
    from everclip.metrics.protocol import read
    from everclip.runs.scores import table_of
    from everclip.training.evaluation import Judge
    from everclip.training.records import task_rows

    entry, judge, rows = read(sequence.protocol).entry, Judge(engine, sequence), []
    for alpha in options.alphas:
        between.place(alpha)
        result = judge.evaluate(between.method, session)
        tasks = task_rows(result, sequence)
        on_tasks = task_losses(engine, between.method, sequence, list(result.verdicts), session)
        counts = [len(sequence.tasks[task].samples) for task in on_tasks]
        sharpness, layers = sharpness_of(between.method, losses, options.kind, options.radius, options.steps)
        rows.append({
            "alpha": alpha,
            "entry": entry,
            "score": table_of([{"tasks": tasks}]).pooled(entry, range(len(sequence.tasks))),
            "held_out": result.held_out,
            "loss": fmean(on_tasks.values(), counts) if on_tasks else None,
            "sharpness": sharpness,
            "layers": layers,
            "tasks": [task | {"loss": on_tasks.get(task["task"])} for task in tasks],
        })  # fmt: skip
    return rows


def alone(between: Line, losses: Sequence[Loss], alphas: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Of every layer that differs: how far it moves, and the losses where it alone moves and all others stay at A.

    Its barrier is the most by which these rise above the straight line between the two at the ends.
    """
    import torch

    from everclip.commands.line import distance

    found = {}
    for layer, names in between.layers().items() if losses else ():
        values = {}
        for alpha in sorted({0.0, *alphas, 1.0}):
            between.place(alpha, names)
            with torch.no_grad():
                values[alpha] = fmean(float(loss()) for loss in losses)
        above = [value - (1 - alpha) * values[0.0] - alpha * values[1.0] for alpha, value in values.items()]
        found[layer] = {
            "distance": distance(*([state[name] for name in names] for state in (between.first, between.last))),
            "losses": list(values.items()),
            "barrier": max(above),
            "straggler": max(above) > BARRIER,
        }
    return found


def curve_grid(rows: Sequence[dict[str, Any]]) -> Grid:
    """One line per share of the way."""
    columns = [("alpha", "alpha", 2), ("score", rows[0]["entry"], 2), ("held_out", "held-out", 2)]
    columns += [("loss", "loss", 3), ("sharpness", "sharpness", 4)]
    shown = [column for column in columns if any(row[column[0]] is not None for row in rows)]
    lines = [GridLine([Cell(row[key]) for key, _, _ in shown]) for row in rows]
    return Grid("", [Column(heading, digits=digits) for _, heading, digits in shown], lines)


def layer_grid(rows: Sequence[dict[str, Any]], layers: dict[str, dict[str, Any]]) -> Grid:
    """One line per layer that moves."""
    columns = [Column("layer", numeric=False), Column("moved", digits=4), Column("barrier", digits=4)]
    shown = [rows[index] for index in sorted({0, len(rows) // 2, len(rows) - 1})]
    columns += [Column(f"sharpness at {row['alpha']:g}", digits=4) for row in shown]
    columns.append(Column("straggler", numeric=False))
    lines = []
    for layer, facts in layers.items():
        sharp = [row["layers"].get(layer) for row in shown]
        mark = "yes" if facts["straggler"] else ""
        lines.append(GridLine([Cell(value) for value in (layer, facts["distance"], facts["barrier"], *sharp, mark)]))
    return Grid("", columns, lines)


if __name__ == "__main__":
    sys.exit(main())
