from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from everclip.metrics.protocol import read
from everclip.reporting.results import Result, labels_of, results_table, session_line, spaced, write_sweep


def make(curve: list[float], seed: int = 0, overrides: tuple[str, ...] = (), **run: Any) -> Result:
    facts = {"method": "ncm", "backbone": "tiny", "sequence": "shapes", "digest": "aa", "seed": seed}
    summary = {
        "accuracy_per_session": curve,
        "average_accuracy": sum(curve) / len(curve),
        "performance_drop": curve[0] - curve[-1],
        "trainable_parameters": 1234,
    }
    return Result(Path("x"), {**facts, "overrides": list(overrides), **run}, summary)


def test_one_run_is_one_plain_row() -> None:
    assert results_table([make([90.0, 80.0])]).splitlines() == [
        "| method |     0 |     1 | average |    PD | trained |",
        "|--------|-------|-------|---------|-------|---------|",
        "| ncm    | 90.00 | 80.00 |   85.00 | 10.00 |   1,234 |",
    ]


def test_seeds_become_mean_and_sample_deviation() -> None:
    table = results_table([make([90.0, 80.0]), make([92.0, 80.0], seed=1), make([60.0, 50.0], method="er")])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[2] == ["ncm", "2", "91.00 ± 1.41", "80.00 ± 0.00", "85.50 ± 0.71", "11.00 ± 1.41", "1,234"]
    assert rows[3] == ["er", "1", "60.00", "50.00", "55.00", "10.00", "1,234"]


def test_labels_tell_settings_apart_and_seeds_not() -> None:
    results = [
        make([1.0], overrides=("method=ncm", "seed=0", "train.epochs=1"), digest="a"),
        make([1.0], overrides=("method=ncm", "seed=1", "train.epochs=1"), digest="a", seed=1),
        make([1.0], overrides=("method=ncm", "seed=0", "train.epochs=2"), digest="b"),
        make([1.0], overrides=("method=ncm", "seed=0", "train.epochs=2", "trainer=cpu"), digest="b", backbone="big"),
    ]
    assert labels_of(results) == [
        "ncm tiny train.epochs=1",
        "ncm tiny train.epochs=1",
        "ncm tiny train.epochs=2",
        "ncm big train.epochs=2",
    ]


def test_one_digest_is_one_row_however_it_was_asked_for() -> None:
    silent = ("data.num_workers=4", "data.cache=disk", "checkpoint.every_n_steps=3", "restart=true", "trainer=cpu")
    words = ("method=ncm", *silent), ("method=ncm", "seed=1")
    assert labels_of([make([1.0], seed, overrides) for seed, overrides in enumerate(words)]) == ["ncm", "ncm"]


def test_differences_without_a_name_show_the_digest() -> None:
    assert labels_of([make([1.0], digest="a"), make([1.0], digest="b")]) == ["ncm a", "ncm b"]


ORIGIN = {"fingerprint": "f" * 64, "weights": {"sha256": "a" * 64}, "commit": "c" * 40, "versions": {"torch": "2.15"}}


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        pytest.param({}, ["ncm", "ncm", "ncm"], id="nothing"),
        pytest.param({"host": "other"}, ["ncm", "ncm", "ncm"], id="no matter"),
        pytest.param({"fingerprint": "e" * 64}, ["ncm (data ffffffff)"] * 2 + ["ncm (data eeeeeeee)"], id="data"),
        pytest.param(
            {"commit": "d" * 40 + "+changes"},
            ["ncm (commit cccccccc)"] * 2 + ["ncm (commit dddddddd+changes)"],
            id="code",
        ),
        pytest.param({"versions": {"torch": "2.11"}}, ["ncm (torch 2.15)"] * 2 + ["ncm (torch 2.11)"], id="libraries"),
        pytest.param({"given": "b" * 64}, ["ncm", "ncm", "ncm"], id="texts that others do not tell of"),
        pytest.param(
            {"weights": {"sha256": "b" * 64}, "precision": "bf16-mixed"},
            ["ncm (weights aaaaaaaa, precision None)"] * 2 + ["ncm (weights bbbbbbbb, precision bf16-mixed)"],
            id="weights",
        ),
    ],
)
def test_seeds_of_another_origin_are_a_row_of_their_own(facts: dict[str, Any], names: list[str]) -> None:
    seeds = [make([90.0, 80.0], seed, **ORIGIN) for seed in (0, 1)]
    assert labels_of([*seeds, make([60.0, 50.0], 2, **ORIGIN | facts)]) == names


@pytest.mark.parametrize(("fact", "name"), [("given", "texts"), ("contents", "contents")])
def test_what_runs_read_besides_tells_them_apart(fact: str, name: str) -> None:
    results = [make([90.0], seed, **ORIGIN | {fact: digit * 64}) for seed, digit in enumerate("aab")]
    assert labels_of(results) == [f"ncm ({name} {digit * 8})" for digit in "aab"]


def test_another_number_of_sessions_is_a_row_of_its_own(tmp_path: Path) -> None:
    results = [make([90.0, 80.0]), make([92.0, 80.0], seed=1), make([60.0], seed=2)]
    text = write_sweep([replace(result, folder=tmp_path / str(n)) for n, result in enumerate(results)], tmp_path)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ncm")]
    assert [row[:4] for row in rows] == [
        ["ncm (sessions 2)", "2", "91.00 ± 1.41", "80.00 ± 0.00"],
        ["ncm (sessions 1)", "1", "60.00", ""],
    ]


def test_data_may_follow_the_seed(tmp_path: Path) -> None:
    def result(seed: int, data: str, settings: int) -> Result:
        folder = tmp_path / f"{seed}{data}"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"sequence:\n  name: dtd\n  classes:\n  - a\n  seed: {settings}\nseed: 9\n")
        return replace(make([1.0], seed, **ORIGIN | {"fingerprint": data * 64}), folder=folder)

    assert labels_of([result(seed, data, seed) for seed, data in enumerate("abc")]) == ["ncm"] * 3
    changed = [result(seed, data, settings) for seed, data, settings in ((4, "a", 4), (5, "b", 5), (6, "c", 5))]
    assert labels_of(changed) == [f"ncm (data {data * 8})" for data in "abc"]


def of_protocol(name: str, entry: str, curve: list[float], **summary: float) -> Result:
    """A result of a protocol with the numbers its columns show."""
    numbers = {f"{entry}_per_session": curve, "trainable_parameters": 1234, **summary}
    return replace(make([1.0], protocol=name), summary=numbers)


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        pytest.param(
            of_protocol("multi_domain", "accuracy", [90.0, 80.0], transfer=60.0, avg=70.0, last=75.5),
            [
                "| method |     0 |     1 | Transfer |  Avg. |  Last | trained |",
                "|--------|-------|-------|----------|-------|-------|---------|",
                "| ncm    | 90.00 | 80.00 |    60.00 | 70.00 | 75.50 |   1,234 |",
            ],
            id="multi_domain",
        ),
        pytest.param(
            of_protocol("multi_domain", "accuracy", [90.0, 80.0], forgetting=1.0),
            [
                "| method |     0 |     1 | Transfer | Avg. | Last | trained |",
                "|--------|-------|-------|----------|------|------|---------|",
                "| ncm    | 90.00 | 80.00 |          |      |      |   1,234 |",
            ],
            id="a method that scores trained classes only",
        ),
        pytest.param(
            of_protocol(
                "base_to_novel", "accuracy", [80.0], base_accuracy=80.0, novel_accuracy=45.0, harmonic_mean=57.6
            ),
            [
                "| method |     0 |  base | novel |     H | trained |",
                "|--------|-------|-------|-------|-------|---------|",
                "| ncm    | 80.00 | 80.00 | 45.00 | 57.60 |   1,234 |",
            ],
            id="base_to_novel",
        ),
        pytest.param(
            of_protocol(
                "retrieval", "mean_recall", [60.0, 50.0],
                average_mean_recall=55.0, last_i2t_r1=40.0, last_t2i_r1=30.0, forgetting=10.0,
            ),
            [
                "| method |     0 |     1 | average | i2t R@1 | t2i R@1 | forgetting | trained |",
                "|--------|-------|-------|---------|---------|---------|------------|---------|",
                "| ncm    | 60.00 | 50.00 |   55.00 |   40.00 |   30.00 |      10.00 |   1,234 |",
            ],
            id="retrieval",
        ),
        pytest.param(
            of_protocol("dense", "miou", [60.0, 50.0], average_miou=55.0, performance_drop=-10.0),
            [
                "| method |     0 |     1 | average |     PD | trained |",
                "|--------|-------|-------|---------|--------|---------|",
                "| ncm    | 60.00 | 50.00 |   55.00 | -10.00 |   1,234 |",
            ],
            id="dense",
        ),
    ],
)  # fmt: skip
def test_a_protocol_has_its_own_columns(result: Result, lines: list[str]) -> None:
    assert results_table([result]).splitlines() == lines


def test_protocols_never_share_a_table() -> None:
    with pytest.raises(ValueError, match="protocols class_incremental, multi_domain"):
        results_table([make([1.0]), make([1.0], protocol="multi_domain", method="er")])


def test_a_sweep_of_two_protocols_has_two_tables(tmp_path: Path) -> None:
    dense = of_protocol("dense", "miou", [60.0], average_miou=55.0, performance_drop=0.0)
    written = write_sweep([make([90.0]), replace(dense, folder=Path("y"))], tmp_path)
    assert written.count("| method |") == 2
    assert sorted(path.name for path in tmp_path.rglob("*_per_session.png")) == [
        "accuracy_per_session.png",
        "miou_per_session.png",
    ]


def test_a_console_gets_some_of_many_sessions_and_a_file_all(tmp_path: Path) -> None:
    result = make([float(session) for session in range(30)])
    heading = results_table([result], width=12).splitlines()[0].replace(" ", "")
    assert heading == "|method|0|3|6|9|12|15|18|21|24|27|29|average|PD|trained|"
    shown = write_sweep([result], tmp_path)
    assert heading in shown.replace(" ", "")
    assert "|28|29|average" in (Path(shown.splitlines()[-1]) / "table.md").read_text().replace(" ", "")


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (12, 12, list(range(12))),
        (13, 12, [0, 2, 4, 6, 8, 10, 12]),
        (1, 12, [0]),
        (30, 12, [*range(0, 30, 3), 29]),
        (100, 12, list(range(0, 100, 9))),
    ],
)
def test_spaced(count: int, most: int, expected: list[int]) -> None:
    assert spaced(count, most) == expected


def test_signs_in_a_label_are_no_markup() -> None:
    result = make([1.0], overrides=("method.x=[bold]a|b",), digest="b")
    other = make([1.0], overrides=("method.x=2",), digest="c")
    assert r"| ncm method.x=\[bold]a\|b | 1.00 |" in results_table([result, other])


RECORD = {"index": 1, "seen_classes": 65, "train_seconds": 1.25, "eval_seconds": 1.0}
MULTI = {"accuracy": 65.5, "base_accuracy": 66.0, "novel_accuracy": 60.0, "zero_shot_accuracy": 69.5}
TIMES = "train 1.2 s  eval 1.0 s"


@pytest.mark.parametrize(
    ("protocol", "numbers", "line"),
    [
        (
            "class_incremental",
            MULTI,
            "  65 classes  accuracy  65.50  base  66.00  novel  60.00  held-out classes  69.50 (71.00 before)",
        ),
        (
            "class_incremental",
            MULTI | {"novel_accuracy": None, "zero_shot_accuracy": None},
            "  65 classes  accuracy  65.50  base  66.00",
        ),
        (
            "multi_domain",
            MULTI,
            "  65 classes  accuracy  65.50  base  66.00  novel  60.00  held-out classes  69.50 (71.00 before)",
        ),
        (
            "base_to_novel",
            MULTI | {"harmonic_mean": 62.86, "zero_shot_accuracy": None},
            "  65 classes  base  66.00  novel  60.00  H  62.86",
        ),
        (
            "retrieval",
            {"seen_classes": 0, "mean_recall": 55.0, "i2t_r1": 40.0, "t2i_r1": 30.0, "t2i_r5": 50.0},
            "mean recall  55.00  i2t R@1  40.00  t2i R@1  30.00",
        ),
        ("dense", {"miou": 35.0, "base_miou": 40.0, "novel_miou": None}, "  65 classes  mIoU  35.00  base  40.00"),
    ],
)
def test_the_line_of_a_session_shows_what_the_protocol_says(protocol: str, numbers: dict[str, Any], line: str) -> None:
    first = RECORD | {"index": 0, "zero_shot_before": 71.0}
    assert session_line([first, RECORD | numbers], 9, read(protocol)) == f"session 1/8  {line}  {TIMES}"
