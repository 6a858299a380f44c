"""The command `everclip-list`: what there is to choose."""

from __future__ import annotations

import json

from everclip.commands.arguments import Parser
from everclip.config.catalogue import describe, option_names
from everclip.reporting.console import terminal

KINDS = {"methods": "method", "backbones": "backbone", "sequences": "sequence", "tables": "table"}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `everclip-list`."""
    parser = Parser(prog="everclip-list", description="What there is to choose on the command line.")
    parser.add_argument("kind", nargs="?", type=_plural, choices=list(KINDS), help="only these (default: all)")
    parser.add_argument("--json", action="store_true", help="machine-readable, with all details")
    options = parser.parse_args(arguments)
    kinds = [options.kind] if options.kind else list(KINDS)
    found = {kind: [describe(KINDS[kind], name) for name in option_names(KINDS[kind])] for kind in kinds}
    if options.json:
        terminal.print_json(json.dumps(found))
        return
    for kind in kinds:
        terminal.print(kind, style="bold")
        for entry in found[kind]:
            terminal.print(f"  {entry['name']:<18} {entry['summary']}")
            given = " ".join(f"{key}={value}" for key, value in entry["options"].items())
            for title, text in (("options", given), ("source", entry["source"]), ("needs", entry["needs"])):
                if text:
                    terminal.print(f"  {'':<18} {title}: {text}", style="dim")


def _plural(word: str) -> str:
    """`methods` for `method`, as the group is called on the command line."""
    return f"{word.removesuffix('s')}s"


if __name__ == "__main__":
    main()
