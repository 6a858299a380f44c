"""The command `everclip-table`: published figures beside those obtained, and what is missing."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from everclip.commands.arguments import Parser
from everclip.config.catalogue import option_names
from everclip.errors import ConfigError
from everclip.reporting.console import tell_on_stderr
from everclip.reporting.formats import FORMATS, note_lines
from everclip.reporting.tables.definition import read_definition
from everclip.reporting.tables.experiments import OUTPUTS, scan
from everclip.reporting.tables.table import make_entries, make_table
from everclip.reporting.tables.wandb_runs import read_wandb


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `everclip-table`."""
    parser = Parser(
        prog="everclip-table",
        description="Published figures beside those of your runs (mean ± standard deviation over the seeds), "
        "with the command for every run that is missing.",
        epilog=f"Tables: {', '.join(option_names('table'))}. Overrides apply to every run of the table, as in "
        "`everclip-table shapes max_sessions=3 seed=0,1`.",
    )
    parser.add_argument("name", help="a table, or a YAML file that defines one")
    parser.add_argument("overrides", nargs="*", help="settings of the runs that differ from the definition")
    parser.add_argument("--format", choices=list(FORMATS), default="md", help="default: md")
    parser.add_argument("--runs", nargs="+", metavar="FOLDER", help="where runs lie (default: outputs)")
    parser.add_argument("--tag", metavar="TAG", help="only runs with this tag; the others count as missing")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="take the runs from W&B; folders only if given, too")
    parser.add_argument("--store", action="store_true", help="with --wandb: keep the table there, as an artifact, too")
    words = sys.argv[1:] if arguments is None else arguments
    overrides = [word for word in words if _is_override(word)]  # wherever they stand, also after --runs
    options = parser.parse_intermixed_args([word for word in words if not _is_override(word)])
    options.overrides += overrides
    if options.store and not options.wandb:
        parser.error("--store needs --wandb ENTITY/PROJECT")
    tell_on_stderr("everclip-table")
    try:
        sys.stdout.write(_table(options))
    except Exception as error:  # noqa: BLE001 (the one place where every error ends)
        from everclip.commands.run import show_error  # loads Hydra, which otherwise only a row that is composed needs

        sys.exit(show_error(error))


def _is_override(word: str) -> bool:
    return re.match(r"[+~]{0,2}[\w./@]+=", word) is not None and not Path(word).is_dir()


def _table(options: argparse.Namespace) -> str:
    definition = read_definition(options.name)
    seeds = [word.removeprefix("seed=") for word in options.overrides if word.startswith("seed=")]
    others = [word for word in options.overrides if not word.startswith("seed=")]
    try:
        chosen = [int(seed) for seed in seeds[-1].split(",")] if seeds else []
    except ValueError:
        raise ConfigError(f"seed={seeds[-1]}: must be numbers with commas between, as in seed=0,1,2") from None
    default = [OUTPUTS] if Path(OUTPUTS).is_dir() and not options.wandb else []
    runs = scan(default if options.runs is None else options.runs)
    online = read_wandb(options.wandb) if options.wandb else []
    runs.finished += online
    if options.tag:
        runs.finished = [result for result in runs.finished if options.tag in result.run.get("tags", ())]
    outputs = options.runs[0] if options.runs else OUTPUTS
    grid, entries = make_table(definition, make_entries(definition, others, chosen), runs, outputs)
    if options.format == "csv" and grid.notes:
        sys.stderr.write("\n".join([*note_lines(grid.notes), ""]))
    if options.store:
        places = {result.folder for result in online}
        shown = {result.folder.name for entry in entries for result in entry.results if result.folder in places}
        texts = {f"table.{name}": FORMATS[name](grid) for name in ("md", "csv")}
        from everclip.loggers.wandb_table import store_table  # which brings numpy and W&B's mirror

        store_table(options.wandb, Path(options.name).stem, texts, sorted(shown))
    return FORMATS[options.format](grid)


if __name__ == "__main__":
    main()
