"""A tiny table in its four formats, and texts with signs that mean something there."""

from __future__ import annotations

import csv
import io

import pytest

from everclip.reporting.tables.definition import COLUMNS, Column
from everclip.reporting.tables.formats import FORMATS, cell_text
from everclip.reporting.tables.table import Cell, Line, Note, Table

ACCURACY, TRAINED = Column("sessions", "0", index=0), COLUMNS["trainable_parameters"]
TINY = Table(
    "Tiny",
    [ACCURACY, TRAINED],
    [
        Line("CLIP", "NCM", "published", "", "a", [Cell(88.0), Cell(1234, verified=False)]),
        Line("CLIP", "NCM", "obtained", "2", "", [Cell(91.0, 2**0.5, 2, best=True), Cell()]),
        Line("CLIP", "NCM", "difference", "", "", [Cell(-0.125), Cell()]),
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
ODD = Table(NAME, [ACCURACY], [Line("", NAME, "published", "", "", [Cell(1.0)])], [])


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


def test_csv_gives_texts_and_numbers_back_as_they_were() -> None:
    third = Cell(100 / 3, 2 / 3, 3)
    table = Table("", [ACCURACY], [Line('x, "y"', NAME, "obtained", "", "", [third])], [])
    (row,) = csv.DictReader(io.StringIO(FORMATS["csv"](table)))
    assert (row["group"], row["row"]) == ('x, "y"', NAME)
    assert (float(row["value"]), float(row["std"]), int(row["n"])) == (third.value, third.std, third.n)


@pytest.mark.parametrize(
    ("cell", "kind", "text"),
    [
        (Cell(), "obtained", ""),
        (Cell(1.005, 0.0, 2), "obtained", "1.00 ± 0.00"),
        (Cell(1.0), "difference", "+1.00"),
        (Cell(-1.0), "difference", "\N{MINUS SIGN}1.00"),
        (Cell(1.0, verified=False), "published", "1.00†"),
    ],
)
def test_cell_text(cell: Cell, kind: str, text: str) -> None:
    assert cell_text(cell, ACCURACY, kind) == text
