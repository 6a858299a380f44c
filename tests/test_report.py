from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everclip.reporting.results import Result, labels_of, mean_std, results_table


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
    words = ("method=ncm", "data.num_workers=4"), ("method=ncm", "seed=1")
    assert labels_of([make([1.0], seed, overrides) for seed, overrides in enumerate(words)]) == [
        "ncm data.num_workers=4",
        "ncm data.num_workers=4",
    ]


def test_differences_without_a_name_show_the_digest() -> None:
    assert labels_of([make([1.0], digest="a"), make([1.0], digest="b")]) == ["ncm a", "ncm b"]


@pytest.mark.parametrize(("values", "text"), [([1.0], "1.00"), ([1.0, 3.0], "2.00 ± 1.41"), ([1.0, float("nan")], "")])
def test_mean_std(values: list[float], text: str) -> None:
    assert mean_std(values) == text
