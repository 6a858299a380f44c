"""A table as Markdown, CSV, LaTeX or HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Container, Sequence

from everclip.reporting.tables.definition import Column
from everclip.reporting.tables.table import Cell, Line, Note, Table


def cell_text(cell: Cell, column: Column, kind: str) -> str:
    """`60.91 ± 0.35`, `+0.32` for a difference, `81.58†` where not verified; empty where there is no figure."""
    if cell.value is None:
        return ""
    sign = "+" if kind == "difference" else ""
    exact = cell.std is None or (cell.std == 0 and not column.better)  # counts that do not vary
    spread = "" if exact else f" ± {cell.std:,.{column.digits}f}"
    return f"{cell.value:{sign},.{column.digits}f}{spread}{'' if cell.verified else '†'}".replace("-", "\N{MINUS SIGN}")


def _grid(table: Table, mark: Callable[[str, bool], str]) -> tuple[list[str], list[tuple[Line, list[str]]]]:
    """Headings, and per line its texts; `mark` makes a format's text of a plain one, bold or not.

    Kind, seeds and sources are left out where they say nothing.
    """
    kinds = len({line.kind for line in table.lines}) > 1
    seeds, sources = (any(getattr(line, name) for line in table.lines) for name in ("seeds", "source"))
    headings = ["method", *(["figures"] if kinds else []), *(["seeds"] if seeds else [])]
    headings += [column.heading for column in table.columns] + (["source"] if sources else [])
    rows = []
    for line in table.lines:
        cells = [
            mark(cell_text(cell, column, line.kind), cell.best)
            for cell, column in zip(line.cells, table.columns, strict=True)
        ]
        before = [line.row, *([line.kind] if kinds else []), *([line.seeds] if seeds else [])]
        after = [line.source] if sources else []
        rows.append((line, [*(mark(t, False) for t in before), *cells, *(mark(t, False) for t in after)]))
    return [mark(heading, False) for heading in headings], rows


def markdown(table: Table) -> str:
    """A heading, a table of aligned columns per group, and the notes as lists."""

    def mark(text: str, bold: bool) -> str:
        escaped = re.sub(r"([|*`<\[\\]|(?<!\w)_|_(?!\w))", r"\\\1", text)
        return f"**{escaped}**" if bold else escaped

    headings, rows = _grid(table, mark)
    left = _left_columns(headings, table)
    numbers = range(left, left + len(table.columns))
    head, rule, *lines = aligned([headings, *(texts for _, texts in rows)], numbers)
    text, shown = [f"## {table.title}"], None
    for (entry, _), line in zip(rows, lines, strict=True):
        if entry.group != shown:
            title = [f"**{mark(entry.group, False)}**", ""] if entry.group else []
            text += ["", *title, head, rule]
            shown = entry.group
        text.append(line)
    for note in table.notes:
        lines = [mark(item, False) + (f": `{command}`" if command else "") for item, command in note.items]
        text += ["", f"{note.title}:", "", *(f"- {line}" for line in lines)] if note.title else ["", *lines]
    return "\n".join(text).rstrip() + "\n"


def aligned(rows: Sequence[Sequence[str]], numbers: Container[int] = ()) -> list[str]:
    """Lines of a Markdown table; the first row is the heading, `numbers` are the columns set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * (width + 1) + (":" if index in numbers else "-") for index, width in enumerate(widths)]

    def line(row: Sequence[str]) -> str:
        pairs = zip(row, widths, strict=True)
        cells = [text.rjust(w) if index in numbers else text.ljust(w) for index, (text, w) in enumerate(pairs)]
        return f"| {' | '.join(cells)} |"

    head, *body = rows
    return [line(head), f"|{'|'.join(rule)}|", *map(line, body)]


def _left_columns(headings: Sequence[str], table: Table) -> int:
    """How many columns of text stand before the figures."""
    return len(headings) - len(table.columns) - (headings[-1] == "source")


def as_csv(table: Table) -> str:
    """One line per row and column, numbers at full precision; the notes are no data and not in it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["group", "row", "figures", "column", "value", "std", "n", "verified", "source"])
    for line in table.lines:
        for column, cell in zip(table.columns, line.cells, strict=True):
            if cell.value is not None:
                published = line.kind == "published"
                facts = [cell.n or "", str(cell.verified).lower() if published else "", line.source]
                std = "" if cell.std is None else repr(cell.std)
                writer.writerow([line.group, line.row, line.kind, column.name, repr(cell.value), std, *facts])
    return buffer.getvalue()


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "†": r"\rlap{$^\dagger$}", "\N{MINUS SIGN}": "$-$",
    "×": r"$\times$",
}  # fmt: skip


def latex(table: Table) -> str:
    """A `tabular` with booktabs rules; the notes are comments."""

    def mark(text: str, bold: bool) -> str:
        escaped = "".join(LATEX.get(sign, sign) for sign in text)
        return f"\\textbf{{{escaped}}}" if bold else escaped

    headings, rows = _grid(table, mark)
    align = "l" * _left_columns(headings, table) + "r" * len(table.columns) + "l" * (headings[-1] == "source")
    text = [f"% {table.title}", "% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{{align}}}", "\\toprule"]
    text += [" & ".join(headings) + r" \\"]
    shown = None
    for line, texts in rows:
        if line.group != shown:
            text.append("\\midrule")
            if line.group:
                text.append(f"\\multicolumn{{{len(headings)}}}{{l}}{{\\textit{{{mark(line.group, False)}}}}} \\\\")
            shown = line.group
        text.append(" & ".join(texts) + r" \\")
    text += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join([*text, *(f"% {line}" for line in note_lines(table.notes))]) + "\n"


def as_html(table: Table) -> str:
    """A fragment that needs nothing else: the table with its own style, and the notes as lists."""

    def mark(text: str, bold: bool) -> str:
        return f"<b>{html.escape(text)}</b>" if bold else html.escape(text)

    headings, rows = _grid(table, mark)
    text = [
        '<div class="everclip-table">',
        "<style>.everclip-table table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
        ".everclip-table td,.everclip-table th{padding:.2em .6em;text-align:right;border-bottom:1px solid #ddd}"
        ".everclip-table caption,.everclip-table tr>:first-child{text-align:left}"
        ".everclip-table tbody th{font-weight:normal}"
        ".everclip-table caption{font-weight:bold;padding:.4em .6em}</style>",
        f"<table><caption>{html.escape(table.title)}</caption>",
        "<thead><tr>" + "".join(f'<th scope="col">{heading}</th>' for heading in headings) + "</tr></thead>",
    ]
    shown = None
    for line, texts in rows:
        if line.group != shown:
            text += ["</tbody>"] * (shown is not None) + ["<tbody>"]
            if line.group:
                span = f'<th scope="rowgroup" colspan="{len(headings)}"><i>{html.escape(line.group)}</i></th>'
                text.append(f"<tr>{span}</tr>")
            shown = line.group
        cells = "".join(f"<td>{cell}</td>" for cell in texts[1:])
        text.append(f'<tr><th scope="row">{texts[0]}</th>{cells}</tr>')
    text += ["</tbody></table>"]
    for note in table.notes:
        items = [html.escape(item) + (f": <code>{html.escape(c)}</code>" if c else "") for item, c in note.items]
        listed = "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
        text += [f"<p>{html.escape(note.title)}</p>", listed] if note.title else [f"<p>{item}</p>" for item in items]
    return "\n".join([*text, "</div>"]) + "\n"


def note_lines(notes: Sequence[Note]) -> list[str]:
    """The notes as plain lines."""
    lines = []
    for note in notes:
        lines += [f"{note.title}:"] * bool(note.title)
        lines += [f"{item}: {command}" if command else item for item, command in note.items]
    return lines


FORMATS = {"md": markdown, "csv": as_csv, "latex": latex, "html": as_html}
