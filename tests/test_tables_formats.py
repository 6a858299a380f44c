"""A tiny table in its four formats, and texts with signs that mean something there."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from everclip.reporting.formats import FORMATS, console, markdown_code, markdown_text, sortable_html
from everclip.reporting.grid import Cell, Column, Grid, Line, Note, over_runs


def grid(title: str, columns: list[Column], lines: list[Line], notes: list[Note] | None = None) -> Grid:
    """Columns of figures with the texts of a table around them."""
    before = [Column("method", numeric=False, name="row"), Column("figures", numeric=False)]
    seeds = Column("seeds", numeric=False, stored=False)
    return Grid(title, [*before, seeds, *columns, Column("source", numeric=False)], lines, notes or [])


def line(group: str, row: str, kind: str, seeds: str, source: str, cells: list[Cell]) -> Line:
    return Line([Cell(row), Cell(kind), Cell(seeds), *cells, Cell(source)], group)


ACCURACY = Column("0", better="high", name="sessions/0")
TRAINED = Column("Trained", digits=0, name="trainable_parameters")
TINY = grid(
    "Tiny",
    [ACCURACY, TRAINED],
    [
        line("CLIP", "NCM", "published", "", "a", [Cell(88.0, verified=True), Cell(1234, verified=False)]),
        line("CLIP", "NCM", "obtained", "2", "", [Cell(91.0, 2**0.5, 2, best=True), Cell()]),
        line("CLIP", "NCM", "difference", "", "", [Cell(-0.125, signed=True), Cell()]),
    ],
    [Note("", [("Lower is worse.", "")]), Note("Missing runs", [("NCM, seed 1", "everclip method=ncm seed=1")])],
)
SNAPSHOTS = {
    "md": """\
## Tiny

**CLIP**

| method | figures    | seeds |                0 | Trained | source |
|--------|------------|-------|-----------------:|--------:|--------|
| NCM    | published  |       |            88.00 |  1,234† | a      |
| NCM    | obtained   | 2     | **91.00 ± 1.41** |         |        |
| NCM    | difference |       |            −0.12 |         |        |

Lower is worse.

Missing runs:

- NCM, seed 1: `everclip method=ncm seed=1`
""",
    "csv": """\
group,row,figures,column,value,std,n,verified,source
CLIP,NCM,published,sessions/0,88.0,,,true,a
CLIP,NCM,published,trainable_parameters,1234,,,false,a
CLIP,NCM,obtained,sessions/0,91.0,1.4142135623730951,2,,
CLIP,NCM,difference,sessions/0,-0.125,,,,
""",
    "latex": r"""% Tiny
% needs \usepackage{booktabs}
\begin{tabular}{lllrrl}
\toprule
method & figures & seeds & 0 & Trained & source \\
\midrule
\multicolumn{6}{l}{\textit{CLIP}} \\
NCM & published &  & 88.00 & 1,234\rlap{$^\dagger$} & a \\
NCM & obtained & 2 & \textbf{91.00 $\pm$ 1.41} &  &  \\
NCM & difference &  & $-$0.12 &  &  \\
\bottomrule
\end{tabular}
% Lower is worse.
% Missing runs:
% NCM, seed 1: everclip method=ncm seed=1
""",
}


@pytest.mark.parametrize("name", list(SNAPSHOTS))
def test_snapshot(name: str) -> None:
    assert FORMATS[name](TINY) == SNAPSHOTS[name]


def test_html_is_a_table_with_headings_and_lists() -> None:
    text = FORMATS["html"](TINY)
    assert text.startswith('<div class="everclip-table">\n<style>')
    assert "<caption>Tiny</caption>" in text
    assert '<tr><th scope="col">method</th><th scope="col">figures</th>' in text
    assert '<tr><th scope="rowgroup" colspan="6"><i>CLIP</i></th></tr>' in text
    assert '<tr><th scope="row">NCM</th><td>obtained</td><td>2</td><td><b>91.00 ± 1.41</b></td><td></td>' in text
    assert "<ul><li>NCM, seed 1: <code>everclip method=ncm seed=1</code></li></ul>" in text
    for tag in ("div", "table", "tbody", "tr", "td", "th", "ul", "li", "p"):
        assert text.count(f"<{tag}>") + text.count(f"<{tag} ") == text.count(f"</{tag}>"), tag


NAME = r"a_b & 50% {x} $1 #2 ~^\ <i>|*`"
ODD = Grid(NAME, [Column("method", numeric=False), ACCURACY], [Line([Cell(NAME), Cell(1.0)])])


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        pytest.param("md", r"| a_b & 50% {x} $1 #2 ~^\\ \<i>\|\*\` |", id="md"),
        pytest.param(
            "latex",
            r"a\_b \& 50\% \{x\} \$1 \#2 \textasciitilde{}\textasciicircum{}\textbackslash{} "
            r"\textless{}i\textgreater{}\textbar{}*` & 1.00",
            id="latex",
        ),
        pytest.param("html", '<th scope="row">a_b &amp; 50% {x} $1 #2 ~^\\ &lt;i&gt;|*`</th>', id="html"),
    ],
)
def test_signs_that_mean_something_are_escaped(name: str, escaped: str) -> None:
    assert escaped in FORMATS[name](ODD)


@pytest.mark.parametrize("name", FORMATS)
def test_no_text_is_an_order_or_a_line_of_its_own(name: str) -> None:
    evil = "a\x1b[31m\n\\input{x}\r\u202e\u2028"
    table = Grid(evil, [Column(evil, numeric=False), ACCURACY], [Line([Cell(evil), Cell(1.0)], evil)])
    plain = FORMATS[name](replace(table, notes=[Note("notes", [(evil, evil)])]))
    line_of = Line([Cell("a"), Cell(1.0)], "a")
    harmless = FORMATS[name](Grid("a", table.columns, [line_of], [Note("notes", [("a", "a")])]))
    assert not set(plain) & set("\x1b\r\u202e\u2028")
    assert plain.count("\n") == harmless.count("\n")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("R&amp;B", r"R\&amp;B"), ("R&B", "R&B"), ("~~x~~", r"\~\~x\~\~"), ("a~b", "a~b"), ("[q,v]", r"\[q,v]")],
)
def test_markdown_shows_what_is_written(text: str, escaped: str) -> None:
    assert markdown_text(text) == escaped
    assert markdown_code("a`b") == "`` a`b ``"


def test_csv_gives_texts_and_numbers_back_as_they_were() -> None:
    third = Cell(100 / 3, 2 / 3, 3)
    table = grid("", [ACCURACY], [line('x, "y"', NAME, "obtained", "", "", [third])])
    (row,) = csv.DictReader(io.StringIO(FORMATS["csv"](table)))
    assert (row["group"], row["row"]) == ('x, "y"', NAME)
    assert (float(row["value"]), float(row["std"]), int(row["n"])) == (third.value, third.std, third.n)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell(), ""),
        (Cell("a text"), "a text"),
        (Cell(1.005, 0.0, 2), "1.00 ± 0.00"),
        (Cell(1.0, signed=True), "+1.00"),
        (Cell(-1.0), "-1.00"),
        (Cell(1.0, verified=False), "1.00†"),
        (Cell(1234), "1,234"),
    ],
)
def test_cell_text(cell: Cell, text: str) -> None:
    assert ACCURACY.text(cell) == text


@pytest.mark.parametrize(
    ("values", "cell"),
    [
        ([1.0], Cell(1.0, None, 1)),
        ([1.0, 3.0], Cell(2.0, 2**0.5, 2)),
        ([1.0, None], Cell()),
        ([], Cell()),
    ],
)
def test_over_runs(values: list[float | None], cell: Cell) -> None:
    assert over_runs(values) == cell


def test_counts_that_do_not_vary_have_no_deviation() -> None:
    assert TRAINED.text(over_runs([1234, 1234])) == "1,234"
    assert TRAINED.text(over_runs([1234, 1236])) == "1,235 ± 1"


def test_a_console_gets_figures_without_marks() -> None:
    made = Grid("", [Column("a|b", numeric=False), ACCURACY], [Line([Cell("x|y [z]"), Cell(-1.5, best=True)])])
    assert console(made).splitlines() == [
        r"| a\|b      |     0 |",
        r"|-----------|-------|",
        r"| x\|y \[z] | -1.50 |",
    ]


def test_a_sortable_table_says_what_it_is_sorted_by() -> None:
    made = Grid("t", [Column("x")], [Line([Cell(1234, best=True)]), Line([Cell("<b>")]), Line([Cell()])], empty="–")
    text = sortable_html(made)
    assert '<td class="number" data-sort="1234"><strong>1,234</strong></td>' in text
    assert '<td data-sort="&lt;b&gt;">&lt;b&gt;</td>' in text
    assert '<td data-sort="">–</td>' in text


def test_the_best_is_marked_per_group_among_what_competes() -> None:
    lines = [
        Line([Cell(1.0)], "a"),
        Line([Cell(2.001)], "a"),
        Line([Cell(2.004)], "a"),
        Line([Cell(9.0)], "a", compared=False),
        Line([Cell(3.0)], "b"),
    ]
    marked = Grid("", [ACCURACY], lines).with_best()
    assert [line.cells[0].best for line in marked.lines] == [False, True, True, False, False]
    unordered = Grid("", [TRAINED], lines).with_best()
    assert not any(line.cells[0].best for line in unordered.lines)
