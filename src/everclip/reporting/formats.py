"""A grid as Markdown, CSV, LaTeX or HTML; whatever means something in a format is escaped here."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Sequence

from everclip.reporting.grid import Grid, Line, Note
from everclip.reporting.plain import plain

MINUS = "\N{MINUS SIGN}"


def _marked(grid: Grid, mark: Callable[[str, bool], str]) -> tuple[list[str], list[tuple[Line, list[str]]]]:
    """Headings, and the texts of each line; `mark` makes a format's text of a plain one, bold or not."""
    lines = []
    for line in grid.lines:
        shown = zip(grid.columns, line.cells, grid.texts(line), strict=True)
        texts = [text.replace("-", MINUS) if column.numeric else text for column, _, text in shown]
        lines.append((line, [mark(text, cell.best) for text, cell in zip(texts, line.cells, strict=True)]))
    return [mark(column.heading, False) for column in grid.columns], lines


def markdown_text(text: str, bold: bool = False) -> str:
    """A text as Markdown, also inside of a table."""
    escaped = re.sub(r"([|*`<\[\\]|(?<!\w)_|_(?!\w)|~(?=~)|(?<=~)~|&(?=#?\w+;))", r"\\\1", plain(text))
    return f"**{escaped}**" if bold else escaped


def markdown_code(text: str) -> str:
    """A text to copy, also inside of a table."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{plain(text)}{space}{fence}"


def markdown(grid: Grid) -> str:
    """A heading, a table of aligned columns per group, and the notes as lists."""
    grid = grid.for_people()
    headings, lines = _marked(grid, markdown_text)
    head, rule, *body = _aligned(grid, [headings, *(texts for _, texts in lines)], ":")
    text, shown = [f"## {markdown_text(grid.title)}"], None
    for (line, _), row in zip(lines, body, strict=True):
        if line.group != shown:
            title = [markdown_text(line.group, True), ""] if line.group else []
            text += ["", *title, head, rule]
            shown = line.group
        text.append(row)
    for note in grid.notes:
        items = [markdown_text(item) + (f": {markdown_code(code)}" if code else "") for item, code in note.items]
        text += ["", f"{note.title}:", "", *(f"- {item}" for item in items)] if note.title else ["", *items]
    return "\n".join(text).rstrip() + "\n"


def console(grid: Grid, *, escaped: bool = True) -> str:
    """The lines alone as a Markdown table that reads well on a terminal: no marks of alignment, no bold figures.

    Args:
        grid: to show.
        escaped: so that it can be pasted as Markdown; otherwise signs stay as they are.
    """
    grid, shown = grid.for_people(), markdown_text if escaped else plain
    texts = [[column.heading for column in grid.columns], *map(grid.texts, grid.lines)]
    return "\n".join(_aligned(grid, [[shown(text) for text in line] for line in texts], "-"))


def _aligned(grid: Grid, rows: Sequence[Sequence[str]], right: str) -> list[str]:
    """Lines of a Markdown table; the first row is the heading, `right` ends the rule below columns of figures."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ends = [right if column.numeric else "-" for column in grid.columns]
    rule = ["-" * (width + 1) + end for width, end in zip(widths, ends, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = [
            text.rjust(width) if column.numeric else text.ljust(width)
            for text, width, column in zip(row, widths, grid.columns, strict=True)
        ]
        return f"| {' | '.join(cells)} |"

    head, *body = rows
    return [line(head), f"|{'|'.join(rule)}|", *map(line, body)]


def as_csv(grid: Grid) -> str:
    """A record per figure, at full precision, with the texts of its line around it; notes are no data."""
    stored = grid.only(index for index, column in enumerate(grid.columns) if column.stored)
    names = [plain(column.name or column.heading) for column in stored.columns]
    numeric = [index for index, column in enumerate(stored.columns) if column.numeric]
    before, after = slice(0, numeric[0]), slice(numeric[-1] + 1, None)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["group", *names[before], "column", "value", "std", "n", "verified", *names[after]])
    for line in stored.lines:
        texts = [plain(cell.value) if isinstance(cell.value, str) else cell.value for cell in line.cells]
        for index in numeric:
            cell = line.cells[index]
            if cell.number is not None:
                std = "" if cell.std is None else repr(cell.std)
                verified = "" if cell.verified is None else str(cell.verified).lower()
                facts = [names[index], repr(cell.value), std, cell.n or "", verified]
                writer.writerow([plain(line.group), *texts[before], *facts, *texts[after]])
    return buffer.getvalue()


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "†": r"\rlap{$^\dagger$}", MINUS: "$-$",
    "×": r"$\times$",
}  # fmt: skip


def latex(grid: Grid) -> str:
    """A `tabular` with booktabs rules; the notes are comments."""

    def mark(text: str, bold: bool) -> str:
        escaped = "".join(LATEX.get(sign, sign) for sign in plain(text))
        return f"\\textbf{{{escaped}}}" if bold else escaped

    grid = grid.for_people()
    headings, lines = _marked(grid, mark)
    align = "".join("r" if column.numeric else "l" for column in grid.columns)
    text = [f"% {plain(grid.title)}", "% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{{align}}}", "\\toprule"]
    text += [" & ".join(headings) + r" \\"]
    shown = None
    for line, texts in lines:
        if line.group != shown:
            text.append("\\midrule")
            if line.group:
                text.append(f"\\multicolumn{{{len(headings)}}}{{l}}{{\\textit{{{mark(line.group, False)}}}}} \\\\")
            shown = line.group
        text.append(" & ".join(texts) + r" \\")
    text += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join([*text, *(f"% {line}" for line in note_lines(grid.notes))]) + "\n"


STYLE = (
    "<style>.everclip-table table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    ".everclip-table td,.everclip-table th{padding:.2em .6em;text-align:right;border-bottom:1px solid #ddd}"
    ".everclip-table caption,.everclip-table tr>:first-child{text-align:left}"
    ".everclip-table tbody th{font-weight:normal}"
    ".everclip-table caption{font-weight:bold;padding:.4em .6em}</style>"
)


def _html(text: str) -> str:
    return html.escape(plain(text))


def as_html(grid: Grid) -> str:
    """A fragment that needs nothing else: the table with its own style, and the notes as lists."""
    return "\n".join(['<div class="everclip-table">', STYLE, html_table(grid), *_html_notes(grid), "</div>"]) + "\n"


def html_table(grid: Grid) -> str:
    """The table alone."""

    def mark(text: str, bold: bool) -> str:
        return f"<b>{_html(text)}</b>" if bold else _html(text)

    headings, lines = _marked(grid.for_people(), mark)
    text = [
        f"<table><caption>{_html(grid.title)}</caption>",
        "<thead><tr>" + "".join(f'<th scope="col">{heading}</th>' for heading in headings) + "</tr></thead>",
    ]
    shown = None
    for line, texts in lines:
        if line.group != shown:
            text += ["</tbody>"] * (shown is not None) + ["<tbody>"]
            if line.group:
                span = f'<th scope="rowgroup" colspan="{len(headings)}"><i>{_html(line.group)}</i></th>'
                text.append(f"<tr>{span}</tr>")
            shown = line.group
        cells = "".join(f"<td>{cell}</td>" for cell in texts[1:])
        text.append(f'<tr><th scope="row">{texts[0]}</th>{cells}</tr>')
    return "\n".join([*text, "</tbody></table>"])


def sortable_html(grid: Grid) -> str:
    """The table alone, for a page whose script sorts it by `data-sort` when a heading is chosen, and its notes."""

    def cell(text: str, line: Line, index: int) -> str:
        entry = line.cells[index]
        kind = "" if entry.number is None else ' class="number"'
        key = "" if entry.value is None else _html(str(entry.value))
        shown = f"<strong>{_html(text)}</strong>" if entry.best else _html(text)
        return f'<td{kind} data-sort="{key}">{shown}</td>'

    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{_html(column.heading)}</button></th>'
        for column in grid.columns
    )
    title = _html(grid.title)
    lines = ["".join(cell(text, line, index) for index, text in enumerate(grid.texts(line))) for line in grid.lines]
    return "\n".join(
        [
            f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">',
            f"<table>\n<caption>{title}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>",
            *(f"<tr>{line}</tr>" for line in lines),
            "</tbody>\n</table>\n</div>",
            *(f'<p class="note">{_html(line)}</p>' for line in note_lines(grid.notes)),
        ]
    )


def _html_notes(grid: Grid) -> list[str]:
    text = []
    for note in grid.notes:
        items = [_html(item) + (f": <code>{_html(c)}</code>" if c else "") for item, c in note.items]
        listed = "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
        text += [f"<p>{_html(note.title)}</p>", listed] if note.title else [f"<p>{item}</p>" for item in items]
    return text


def note_lines(notes: Sequence[Note]) -> list[str]:
    """The notes as plain lines."""
    lines = []
    for note in notes:
        lines += [f"{note.title}:"] * bool(note.title)
        lines += [plain(f"{item}: {command}" if command else item) for item, command in note.items]
    return lines


FORMATS = {"md": markdown, "csv": as_csv, "latex": latex, "html": as_html}
