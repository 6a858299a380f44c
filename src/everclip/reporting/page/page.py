"""One page about a run or a sweep, with everything it shows inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from everclip import storage
from everclip.metrics.protocol import Protocol
from everclip.reporting import inspection
from everclip.reporting.formats import sortable_html
from everclip.reporting.page import sections
from everclip.reporting.page.runs import find_runs, grouped
from everclip.reporting.plain import file_name, plain
from everclip.reporting.stored import Run
from everclip.runs.folder import now


def write_page(folder: Path, output: Path, figures_dir: Path | None = None) -> None:
    """Writes the page about the runs in a folder, and its figures as PNG and PDF if asked for.

    Raises:
        MissingError: there is no run.
    """
    runs, odd = find_runs(folder)
    kinds = dict.fromkeys((_sequence(run), run.result.protocol) for run in runs if run.finished)
    sequences = [_section(sequence, protocol, runs, figures_dir) for sequence, protocol in kinds]
    tables, figures = inspection.stored(runs[0].folder.path) if len(runs) == 1 else ([], [])
    states = [*(run.facts.get("state") or "without a state" for run in runs), *["damaged"] * len(odd)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("page.html").render(
        title=_title(runs, folder),
        made=now(),
        table=sortable_html,
        states={state: states.count(state) for state in dict.fromkeys(states)},
        failures=sections.failures_of(runs, odd, folder),
        sequences=sequences,
        inspected={"tables": tables, "figures": figures},
        details=[
            table
            for table in (
                sections.sessions_of(runs[0]) if len(runs) == 1 else None,
                sections.differences_of(runs),
                sections.settings_of(runs),
                sections.environment_of(runs),
                sections.runs_of(runs, folder),
            )
            if table is not None and table.lines
        ],
    )
    storage.write_text(output, page)


def _sequence(run: Run) -> str:
    return plain(run.facts["sequence"])


def _title(runs: list[Run], folder: Path) -> str:
    if len(runs) == 1 and runs[0].known:
        facts = runs[0].facts
        return plain(f"{facts['method']} on {facts['sequence']}, {facts['backbone']}, seed {facts['seed']}")
    return plain(f"{len(runs)} runs in {folder.resolve().name}")


def _section(sequence: str, protocol: Protocol, runs: list[Run], figures_dir: Path | None) -> dict[str, Any]:
    """Tables and figures of the finished runs of a sequence."""
    from everclip.reporting.figures import data_uri, save_figure
    from everclip.reporting.page.drawings import drawings_of

    finished = [run for run in runs if run.finished and _sequence(run) == sequence]
    groups = grouped([run for run in finished if run.result.protocol is protocol])
    drawings = list(drawings_of(groups, sequence, protocol))
    if figures_dir is not None:
        for drawing in drawings:
            save_figure(drawing.figure, figures_dir / file_name(sequence) / drawing.name)
    shown = [{"caption": drawing.caption, "source": data_uri(drawing.figure)} for drawing in drawings]
    return {
        "name": sequence,
        "results": sections.results_of(groups, protocol),
        "diagnostics": sections.diagnostics_of(groups, protocol),
        "cost": sections.cost_of(groups),
        "figures": shown,
    }
