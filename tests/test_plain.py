"""Texts of strangers as texts, and as names of files."""

from __future__ import annotations

import pytest

from everclip.reporting.plain import duration, file_name, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 猫 🐕 ±", "plain ä 猫 🐕 ±"),
        ("\x1b[31m\x07\x7f\x9b", r"\x1b[31m\x07\x7f\x9b"),
        ("a\nb\tc\r", r"a\x0ab\x09c\x0d"),
        ("\u202e\u2028\udc80", r"\u202e\u2028\udc80"),
    ],
)
def test_orders_become_numbers(text: str, shown: str) -> None:
    assert plain(text) == shown == plain(shown)


def test_ends_of_lines_may_stay() -> None:
    assert plain("a\n\x1b", keep="\n") == "a\n\\x1b"


@pytest.mark.parametrize("text", ["../../up", "/etc/passwd", "..", "", "a\0b", "x" * 300, "half \udc80", "a\nb"])
def test_a_name_stays_in_its_folder(text: str) -> None:
    name = file_name(text)
    assert "/" not in name
    assert name.strip(".")
    assert len(name.encode()) < 256


def test_names_stay_and_are_told_apart() -> None:
    assert file_name("cil_cifar100-1.5+x=2 ä".replace(" ", "")) == "cil_cifar100-1.5+x=2ä"
    assert file_name("a/b") != file_name("a:b")


def test_durations_are_short() -> None:
    assert [duration(seconds) for seconds in (89, 90, 5399, 5400)] == ["89 s", "2 min", "90 min", "1.5 h"]
