"""The command `everclip-sharpness`: how sharp the loss of stored models is, over all weights and layer by layer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from everclip.commands.arguments import Parser, add_points
from everclip.errors import ConfigError, EverclipError
from everclip.reporting.console import quieten_libraries, tell_error
from everclip.reporting.formats import console
from everclip.reporting.grid import Cell, Column, Grid, Line

ALL = "all weights"


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `everclip-sharpness`; returns the exit code."""
    parser = Parser(
        prog="everclip-sharpness",
        description="Says by how much the loss on training pictures rises where the weights of stored models are moved "
        "in proportion to their size, all of them and those of each layer alone.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder or a checkpoint in one")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures there, as JSON")
    add_points(parser)
    options = parser.parse_args(arguments)
    try:
        if options.points < 1:
            raise ConfigError(f"--points {options.points}: sharpness is measured on pictures; give 1 or more")
        found = {run: measure(run, options) for run in options.runs}
    except EverclipError as error:
        tell_error("everclip-sharpness", error)
        return error.exit_code
    if options.output is not None:
        from everclip import storage

        storage.write_json(options.output, found)
    sys.stdout.write(f"{console(grid_of(found))}\n")
    return 0


def measure(run: str, options: argparse.Namespace) -> dict[str, Any]:
    """Sharpness of one stored model."""
    from everclip.commands.line import path_of
    from everclip.commands.load import load_checkpoint, read_sequence
    from everclip.commands.points import losses_on_points, sharpness_of
    from everclip.training.engine import Engine

    quieten_libraries()
    path = path_of(run)
    model = load_checkpoint(path, trust=options.trust)
    Engine(accelerator=options.accelerator, features="off").place(model.method)
    sequence = read_sequence(path, trust=options.trust)
    session = int(model.facts["session"])
    losses = losses_on_points(
        model.method, sequence, session, options.points, seed=options.seed, normalize=options.normalize
    )
    whole, layers = sharpness_of(model.method, losses, options.kind, options.radius, options.steps)
    return {ALL: whole, **layers}


def grid_of(found: dict[str, dict[str, Any]]) -> Grid:
    """One line per layer, one column per model."""
    layers = dict.fromkeys(layer for values in found.values() for layer in values)
    columns = [Column("layer", numeric=False), *(Column(run, digits=4) for run in found)]
    return Grid("", columns, [Line([Cell(layer), *(Cell(v.get(layer)) for v in found.values())]) for layer in layers])


if __name__ == "__main__":
    sys.exit(main())
