"""The page of `everclip-report`: its structure, always with html.parser and where there is one in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from everclip.commands.report import main
from everclip.metrics.class_incremental import PROTOCOL
from everclip.metrics.protocol import read
from everclip.reporting.page.sections import diagnostics_of
from everclip.reporting.results import read_result, write_sweep
from everclip.reporting.stored import Run
from everclip.runs.folder import RunFolder
from everclip.runs.scores import table_of

SEQUENCE = "../../shapes"
EVIL = "<script>alert('x')</script>\"&"


def make_run(folder: Path, method: str = "ncm", seed: int = 0, better: int = 0, **facts: Any) -> RunFolder:
    """A finished run of two sessions."""
    run = RunFolder(folder / "shapes" / method / "tiny" / facts.get("digest", method) / f"seed{seed}")
    records = []
    for index in range(2):
        correct = [8 + better - index, 5][: index + 1]
        tasks = [
            {
                "task": task,
                "name": f"task {task}",
                "accuracy": 10.0 * value,
                "correct": value,
                "count": 10,
                "predicted": [value, 10 - value] if index else [10],
            }
            for task, value in enumerate(correct)
        ]
        seen = 10.0 * sum(correct) / len(correct)
        records.append(
            {
                "index": index, "name": f"session {index}", "seen_classes": 5, "train_images": 9, "accuracy": seen,
                "base_accuracy": 10.0 * correct[0], "novel_accuracy": 50.0 if index else None,
                "zero_shot_accuracy": None, "tasks": tasks, "train_steps": 3, "train_seconds": 2.0,
                "eval_seconds": 1.0, "eval_images_per_second": 10.0, "peak_memory_mb": 100.0,
            }
        )  # fmt: skip
    run.path.mkdir(parents=True)
    run.write_sessions(records, 2)
    summary = PROTOCOL.summary(table_of(records, 2)) | {
        "accuracy_per_session": [record["accuracy"] for record in records],
        "zero_shot_after": None, "train_seconds": 4.0, "eval_seconds": 2.0, "peak_memory_mb": 100.0,
        "trainable_parameters": 1234, "total_parameters": 5678,
    }  # fmt: skip
    run.write_summary(summary)
    (run.path / "config.yaml").write_text(f"seed: {seed}\nmethod:\n  name: {method}\noptimizer:\n  lr: 0.003\n")
    known = {
        "method": method, "sequence": "shapes", "backbone": "tiny", "seed": seed, "digest": method, "devices": 1,
        "overrides": [f"method={method}", f"seed={seed}"], "device": "cpu", "precision": "32-true", "commit": "c0ffee",
        "fingerprint": "f" * 64, "weights": {"sha256": "a" * 64}, "versions": {"torch": "2.15"}, "state": "finished",
        "attempts": [{"start": "2026-01-01", "reason": None}],
    }  # fmt: skip
    run.update_run(**known | facts)
    return run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two methods, one with two seeds, a run that failed, one that never began, and hostile names."""
    make_run(tmp_path, sequence=SEQUENCE)
    make_run(tmp_path, seed=1, better=1, sequence=SEQUENCE)
    make_run(tmp_path, "er", better=1, sequence=SEQUENCE, host=EVIL, overrides=["method=er", f"optimizer.name={EVIL}"])
    failed = RunFolder(tmp_path / "shapes" / "er" / "tiny" / "bad" / "seed0")
    failed.path.mkdir(parents=True)
    attempts = [{"start": "2026-01-01", "reason": f"NotFiniteError: lr {EVIL}"}]
    failed.update_run(
        method="er", backbone="tiny", sequence=SEQUENCE, digest="bad", seed=0, state="failed", attempts=attempts,
        overrides=["method=er", "optimizer.lr=1e9"],
    )  # fmt: skip
    early = RunFolder(tmp_path / "shapes" / "er" / "tiny" / "early" / "seed0")
    early.path.mkdir(parents=True)
    early.update_run(state="failed", attempts=[{"start": "2026-01-01", "reason": "MissingError: no weights"}])
    return tmp_path


class Page(HTMLParser):
    """Tables by caption, tags with attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("table", "caption", "tr", "td", "th", "script", "style"):
            self._open.append(tag)
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "caption":
            self.tables[data] = self._rows
        elif inside in ("td", "th"):
            self._rows[-1][-1] += data

    def table(self, words: str) -> list[list[str]]:
        """The only table whose caption has these words: header and rows."""
        (found,) = (rows for caption, rows in self.tables.items() if words in caption)
        return found


def report(folder: Path, *words: str) -> Page:
    assert main([str(folder), *words]) == 0
    return Page((folder / "report.html").read_text())


def test_results_are_means_over_seeds_and_the_best_is_marked(sweep: Path) -> None:
    page = report(sweep)
    header, er, ncm = page.table("After each session")
    assert header[:5] == ["method", "seeds", "0", "1", "average"]
    assert er[:5] == [f"er optimizer.name={EVIL}", "1", "90.00", "65.00", "77.50"]
    assert ncm[:5] == ["ncm", "2", "85.00 ± 7.07", "62.50 ± 3.54", "73.75 ± 5.30"]
    text = (sweep / "report.html").read_text()
    assert "<strong>90.00</strong>" in text
    assert "<strong>85.00" not in text


def test_failures_say_why_and_how_to_go_on(sweep: Path) -> None:
    header, *rows = report(sweep).table("without a result")
    assert header[4:6] == ["last error", "goes on with"]
    errors = {row[4]: row[5] for row in rows}
    place = f"hydra.run.dir={sweep}/shapes/er/tiny/bad/seed0"
    assert errors == {
        f"NotFiniteError: lr {EVIL}": f"everclip method=er optimizer.lr=1e9 {place}",
        "MissingError: no weights": "–",
    }


def test_differences_leave_out_what_is_equal(sweep: Path) -> None:
    _, *rows = report(sweep).table("Settings that differ")
    assert [row[0] for row in rows] == ["method.name"]
    assert rows[0][1:] == ["er", "ncm"]


def test_runs_of_another_origin_are_rows_of_their_own(sweep: Path) -> None:
    make_run(sweep, seed=2, sequence=SEQUENCE, commit="decade")
    _, _, *rows = report(sweep).table("After each session")
    assert [row[:2] for row in rows] == [["ncm (commit c0ffee)", "2"], ["ncm (commit decade)", "1"]]


def test_nothing_is_loaded_and_nothing_from_files_is_markup(sweep: Path) -> None:
    page = report(sweep)
    loading = [values.get("src") or values.get("href") or "" for _, values in page.tags]
    assert {address.split(":")[0][:1] for address in loading if address} == {"#", "d"}
    assert all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in loading if address)
    text = (sweep / "report.html").read_text()
    assert not re.search(r"https?://|@import|url\(", text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert" not in text


def test_every_column_can_be_sorted_by_keyboard(sweep: Path) -> None:
    page = report(sweep)
    heads = [values for tag, values in page.tags if tag == "th"]
    buttons = [values for tag, values in page.tags if tag == "button"]
    assert {(head["scope"], head["aria-sort"]) for head in heads} == {("col", "none")}
    assert len(buttons) == len(heads)
    assert all(values["alt"] for tag, values in page.tags if tag == "img")


def test_figures_beside_the_page(sweep: Path) -> None:
    before = set(sweep.parent.rglob("*.png"))  # of other tests
    report(sweep, "--figures")
    (folder,) = (sweep / "figures").iterdir()
    assert set(sweep.parent.rglob("*.png")) - before == set(folder.glob("*.png"))
    assert {path.stem for path in folder.glob("*.png")} == {
        "accuracy_per_session", "accuracy_matrix", "confusion_between_sessions", "forgetting_per_task", "base_novel",
        "accuracy_trainable_parameters", "accuracy_train_seconds",
    }  # fmt: skip


def test_a_single_run_shows_its_sessions_and_settings(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    page = report(run.path)
    assert [row[:2] for row in page.table("Sessions")[1:]] == [["0", "session 0"], ["1", "session 1"]]
    assert ["optimizer.lr", "0.003"] in page.table("All settings")


def test_a_single_run_has_no_figures_that_compare_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    report(run.path, "--figures")
    assert {path.stem for path in run.path.rglob("figures/*/*.png")} == {
        "accuracy_per_session", "accuracy_matrix", "confusion_between_sessions", "forgetting_per_task",
    }  # fmt: skip


def test_what_a_reader_needs_beside_the_figures(sweep: Path) -> None:
    cut = RunFolder(sweep / "shapes" / "er" / "tiny" / "er" / "seed0")
    with (cut.path / "config.yaml").open("a") as file:
        file.write("max_sessions: 2\noverfit: 10\n")
    page, text = report(sweep), (sweep / "report.html").read_text()
    assert f"er optimizer.name={escape(EVIL)}: cut short by max_sessions=2" in text
    assert f"er optimizer.name={escape(EVIL)}: no result, overfit=10 is for finding faults." in text
    assert ["optimizer.lr", "0.003"] in page.table("Settings that all share")
    commands = {row[-2] for row in page.table("All runs")[1:]}
    assert {
        f"everclip method=ncm seed={seed} hydra.run.dir={sweep}/shapes/ncm/tiny/ncm/seed{seed}" for seed in (0, 1)
    } <= commands
    header, *rows = page.table("After each session")
    forgetting = [row[header.index("forgetting")] for row in rows]
    assert not any(f"<strong>{value}</strong>" in text for value in forgetting)


def test_the_folder_of_a_sweep_knows_its_runs(sweep: Path, tmp_path: Path) -> None:
    ran = [make_run(tmp_path / "outputs", seed=seed) for seed in (5, 6)]
    make_run(tmp_path / "outputs", seed=7)
    results = [result for run in ran if (result := read_result(run))]
    folder = Path(write_sweep(results, tmp_path / "outputs").splitlines()[-1])
    assert [row[3] for row in report(folder).table("All runs")[1:]] == ["5", "6"]


def test_tags_and_notes_have_columns_where_there_are_any(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert not {"tags", "notes"} & set(report(tmp_path).table("All runs")[0])
    make_run(tmp_path, seed=1, tags=["a", "b"], notes=EVIL)
    header, *rows = report(tmp_path).table("All runs")
    assert [[row[header.index(name)] for name in ("tags", "notes")] for row in rows] == [["–", "–"], ["a, b", EVIL]]


def test_a_damaged_record_is_a_failure_not_a_crash(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.path / "sessions.jsonl").write_text("{")
    assert "damaged" in report(tmp_path).table("without a result")[1][4]


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith(f"everclip-report: {tmp_path}/nowhere: no run below it")


def test_diagnostics_stand_in_a_table_of_their_own_as_far_as_runs_have_them() -> None:
    def runs(*values: float) -> list[Run]:
        return [Run(RunFolder(Path()), {}, {"last_image_cka": value, "last_alignment": 1.5}) for value in values]

    groups = {"finetune": runs(0.5, 0.7), "zero_shot": runs(1.0)}
    grid = diagnostics_of(groups, read("retrieval"))
    assert grid is not None
    assert [column.heading for column in grid.columns] == ["method", "alignment", "CKA images, start"]
    assert [grid.texts(line) for line in grid.lines] == [
        ["finetune", "1.500 ± 0.000", "0.600 ± 0.141"], ["zero_shot", "1.500", "1.000"],
    ]  # fmt: skip
    assert diagnostics_of({"old": [Run(RunFolder(Path()), {}, {})]}, read("retrieval")) is None


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_it_and_sorts(sweep: Path) -> None:
    report(sweep)
    page = (sweep / "report.html").read_text()
    click = "<script>document.querySelectorAll('#sequence-1 th button')[2].click()</script>"
    (sweep / "clicked.html").write_text(page.replace("</body>", click + "</body>"))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --dump-dom"
    )
    command = ["chromium", *flags.split(), f"--user-data-dir={sweep}/profile", f"file://{sweep}/clicked.html"]
    dom = Page(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)
    _, first, second = dom.table("After each session")
    assert (first[0], second[0][:3]) == ("ncm", "er ")  # ascending by session 0: 85 before 90
    assert [values["aria-sort"] for tag, values in dom.tags if tag == "th"].count("ascending") == 1
