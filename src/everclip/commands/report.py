"""The command `everclip-report`: one page about a run or a sweep."""

from __future__ import annotations

import sys
from pathlib import Path

from everclip.commands.arguments import Parser
from everclip.errors import EverclipError
from everclip.reporting.console import tell_error, tell_on_stderr, terminal
from everclip.reporting.page.page import write_page


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `everclip-report`; returns the exit code."""
    parser = Parser(prog="everclip-report", description="One HTML page about a run or a sweep; it needs no network.")
    parser.add_argument("folder", type=Path, help="a run folder, a folder of a sweep, or paths.outputs")
    parser.add_argument("--output", type=Path, help="where the page goes (default: FOLDER/report.html)")
    parser.add_argument("--figures", action="store_true", help="also write the figures as PNG and PDF beside the page")
    options = parser.parse_args(arguments)
    tell_on_stderr("everclip-report")
    output = options.output or options.folder / "report.html"
    try:
        write_page(options.folder, output, output.parent / "figures" if options.figures else None)
    except EverclipError as error:
        tell_error("everclip-report", error)
        return error.exit_code
    terminal.print(str(output.absolute()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
