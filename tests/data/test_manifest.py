"""The user's own pictures in a list."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from everclip.data.sequences.manifest import manifest
from everclip.errors import ConfigError, DataError, MissingError
from tests.data.conftest import CLASSES, NAMES, paths, picture


@pytest.fixture
def write_list(tree: Path) -> Callable[..., Path]:
    """Writes a list of the tree's pictures with the first two of each class for testing."""

    def _write(*columns: str, changes: Sequence[Sequence[str]] = (), encoding: str = "utf-8") -> Path:
        rows = [
            {
                "path": f"{name}/{name[:1]}{i}.png",
                "label": name,
                "split": "test" if i < 2 else "train",
                "session": str(n),
            }
            for n, name in enumerate(CLASSES)
            for i in range(10)
        ]
        path = tree / "list.csv"
        with path.open("w", newline="", encoding=encoding) as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([[row[column] for column in columns] for row in rows])
            writer.writerows(changes)
        return path

    return _write


def test_a_list_becomes_a_sequence(write_list: Callable[..., Path]) -> None:
    sequence = manifest(file=str(write_list("path", "label", "split")), base_classes=1, way=1, shots=3)
    assert sequence.sessions[-1].seen.names == NAMES
    assert [len(session.train) for session in sequence.sessions] == [8, 3, 3]
    assert [paths(task.samples) for task in sequence.tasks] == [
        ["b0.png", "b1.png"],
        ["z0.png", "z1.png"],
        ["ä0.png", "ä1.png"],
    ]


def test_a_list_without_a_split_is_divided(write_list: Callable[..., Path]) -> None:
    sequence = manifest(file=str(write_list("label", "path", encoding="utf-8-sig")), base_classes=1)
    assert [len(session.train) for session in sequence.sessions] == [7, 14]
    assert [len(task.samples) for task in sequence.tasks] == [3, 6]


def test_a_label_may_be_a_sign_that_is_a_digit_but_no_number(tmp_path: Path) -> None:
    lines = ["path,label,split"]
    for label in ("\u00b2", "10", "9"):
        for split in ("train", "test"):
            picture(tmp_path / f"{label}_{split}.png")
            lines.append(f"{label}_{split}.png,{label},{split}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    sequence = manifest(file=str(tmp_path / "list.csv"), base_classes=3)
    assert sequence.sessions[0].seen.names == ("\u00b2", "9", "10")


def test_a_list_may_say_the_sessions(write_list: Callable[..., Path], tree: Path) -> None:
    picture(tree / "gnu" / "0.png")
    picture(tree / "gnu" / "1.png")
    more = [["gnu/0.png", "gnu", "train", "0"], ["gnu/1.png", "gnu", "test", ""], []]
    path = write_list("path", "label", "split", "session", changes=more)
    sequence = manifest(file=str(path))
    assert [session.new.names for session in sequence.sessions] == [(NAMES[0], "gnu"), (NAMES[1],), (NAMES[2],)]
    with pytest.raises(ConfigError, match=r"the column session of .*list\.csv says it already"):
        manifest(file=str(path), base_classes=1)


def test_numbers_as_labels_are_in_order_of_size(tmp_path: Path) -> None:
    lines = [f"{picture(tmp_path / f'{label}_{i}.png').name},{label}" for label in (10, 9, 1) for i in range(2)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    (tmp_path / "names.txt").write_text("one\nnine\nten\n")
    sequence = manifest(file=str(tmp_path / "list.csv"), names=str(tmp_path / "names.txt"))
    assert sequence.sessions[0].new.names == ("one", "nine", "ten")
    assert [name.split("_")[0] for name in paths(sequence.tasks[0].samples)] == ["10", "9", "1"]


@pytest.mark.parametrize(
    ("columns", "lines", "message"),
    [
        (("path", "split"), [], "the first line is 'path,split', but must be path,label"),
        (("path", "label", "path"), [], "the first line is 'path,label,path'"),
        (("path", "label"), [["zebra/z0.png"]], "line 32: 1 values for the columns path,label"),
        (("path", "label"), [["zebra/z0.png", "z" * 200_000]], "line 32 cannot be read: field larger than"),
        (("path", "label"), [["zebra/none.png", "zebra"]], "line 32: .*/zebra/none.png is not there"),
        (("path", "label"), [["zebra/z0.png", "zebra"]], "line 32: .*/zebra/z0.png is in line 12 already"),
        (("path", "label"), [["/etc/hostname", "zebra"]], "line 32: /etc/hostname is not below"),
        (("path", "label"), [["../../etc/hostname", "zebra"]], "line 32: .*hostname is not below"),
        (("path", "label"), [["zebra/../../x.png", "zebra"]], "line 32: .*x.png is not below"),
        (("path", "label"), [["zebra/../zebra/z0.png", "zebra"]], "line 32: .*/zebra/z0.png is in line 12 already"),
        (("path", "label"), [["zebra/z0.png", " "]], "line 32: no label"),
        (("path", "label", "split"), [["zebra/z0.png", "zebra", "val"]], "line 32: split 'val' must be train or test"),
        (("path", "label", "session"), [["zebra/z0.png", "zebra", "two"]], "line 32: session 'two' must be a number"),
        (
            ("path", "label", "session"),
            [["zebra/z0.png", "zebra", "\u00b2"]],
            "line 32: session '\u00b2' must be a number",
        ),
    ],
)
def test_lists_that_do_not_fit(
    columns: tuple[str, ...], lines: list[list[str]], message: str, write_list: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match=message):
        manifest(file=str(write_list(*columns, changes=lines)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["gnu/0.png", "gnu", "train", "3"], "class 'gnu' has no test picture"),
        (["gnu/0.png", "zebra", "train", "2"], "line 32: class 'zebra' is in session 2, in line 12 in session 1"),
    ],
)
def test_lists_that_contradict_themselves(
    line: list[str], message: str, write_list: Callable[..., Path], tree: Path
) -> None:
    picture(tree / "gnu" / "0.png")
    with pytest.raises(DataError, match=message):
        manifest(file=str(write_list("path", "label", "split", "session", changes=[line])))


@pytest.mark.parametrize(
    ("sessions", "message"), [("4 4", "the sessions are .0, 1, 2, 4., but must be"), (" ", "no line says the session")]
)
def test_sessions_of_a_list_are_whole(sessions: str, message: str, write_list: Callable[..., Path], tree: Path) -> None:
    lines = [
        [str(picture(tree / "gnu" / f"{split}.png").relative_to(tree)), "gnu", split, session]
        for split, session in zip(("train", "test"), sessions.split(" "), strict=True)
    ]
    with pytest.raises(DataError, match=message):
        manifest(file=str(write_list("path", "label", "split", "session", changes=lines)))


def test_a_missing_or_unreadable_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"sequence\.file=.*none\.csv: no such file"):
        manifest(file=str(tmp_path / "none.csv"))
    (tmp_path / "empty.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"empty\.csv lists no pictures"):
        manifest(file=str(tmp_path / "empty.csv"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"sequence\.file=.*binary\.csv cannot be read"):
        manifest(file=str(tmp_path / "binary.csv"))
