"""The user's own pictures, in class folders, and the mistakes that can be in them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from torchvision.transforms import PILToTensor

from everclip.data.images import FileImages
from everclip.data.sequences.folder import folder
from everclip.data.sequences.orders import by_name
from everclip.errors import ConfigError, DataError, MissingError
from tests.data.conftest import CLASSES, NAMES, paths, picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four training and two test pictures per class."""
    for split, count in (("train", 4), ("test", 2)):
        for name in CLASSES:
            for i in range(count):
                picture(tmp_path / "photos" / split / name / f"{split} {i}.png")
    return tmp_path / "photos"


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user whom permissions bind, also where the tests run as root."""
    is_root = os.geteuid() == 0
    top = Path(tempfile.mkdtemp())
    if is_root:
        shutil.chown(top, 65534)
        os.seteuid(65534)
    try:
        yield top
    finally:
        if is_root:
            os.seteuid(0)
        for path in top.rglob("*"):
            path.chmod(0o700)
        shutil.rmtree(top)


def test_folders_become_a_sequence(photos: Path) -> None:
    sequence = folder(root=str(photos), base_classes=2, way=1, shots=2)
    assert sequence.sessions[-1].seen.names == NAMES
    assert [len(session.train) for session in sequence.sessions] == [8, 2]
    assert [len(task.samples) for task in sequence.tasks] == [4, 2]
    assert sequence.tasks[1].samples.read([0], PILToTensor()).images.shape == (1, 3, 3, 4)


def test_a_class_may_be_left_out(photos: Path, tree: Path) -> None:
    for root in (photos, tree):
        sequence = folder(root=str(root), exclude=["zebra"])
        assert "zebra" not in sequence.sessions[-1].seen.names
        assert len(sequence.sessions[-1].seen) == 2
    with pytest.raises(ConfigError, match=r"'zebras' is no class of .*; did you mean 'zebra'"):
        folder(root=str(photos), exclude=["zebras"])


def test_classes_called_by_numbers_are_ordered_by_name(tmp_path: Path) -> None:
    for name in ("1", "2", "3", "4", "10"):
        for i in range(2):
            picture(tmp_path / "photos" / name / f"{name} {i}.png")
    order: list[int | str] = [3, "1", 10]
    sequence = folder(root=f"{tmp_path}/photos", base_classes=1, way=1, class_order=order)
    assert [session.new.names for session in sequence.sessions] == [("3",), ("1",), ("10",)]
    with pytest.raises(ConfigError, match=r"there is no class '0' among the 5"):
        folder(root=f"{tmp_path}/photos", class_order=[0])
    assert by_name([1, "bee"], ["ant", "bee_1"], ["ant", "bee"]) == [1, 1]  # numbers count where they call nothing
    assert by_name("seed1", ["1"], ["1"]) == "seed1"


def test_equal_pictures_in_training_and_in_two_classes_are_named(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = photos / "train" / CLASSES[0], photos / "train" / "zebra"
    shutil.copy(first / "train 0.png", first / "train 9.png")
    shutil.copy(first / "train 0.png", other / "train 9.png")
    folder(root=str(photos))
    same = f"one is %s, the same as {first / 'train 0.png'}"
    assert "2 training pictures are there twice, byte for byte; " + same % (first / "train 9.png") in caplog.text
    assert "1 pictures are of another class than the same picture elsewhere" in caplog.text
    assert same % (other / "train 9.png") in caplog.text
    assert "test pictures" not in caplog.text


def test_damaged_pictures_are_named_before_they_are_read(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = folder(root=str(photos)).tasks[0].samples
    of_test = [next(own.iterdir()) for own in sorted((photos / "test").iterdir())]
    of_test[0].write_bytes(of_test[0].read_bytes()[:45])
    of_test[1].write_bytes(b"")
    reason = "cannot be read as a picture: "
    with pytest.raises(DataError) as refused:
        folder(root=str(photos))
    assert str(refused.value).startswith(f"{of_test[0]} {reason}")
    assert str(refused.value).endswith(
        " (in all 2 damaged pictures); mend or remove such files, or leave them out with sequence.broken=leave_out"
    )
    (second,) = caplog.messages
    assert second.startswith(f"{of_test[1]} {reason}")
    caplog.clear()
    left = folder(root=str(photos), broken="leave_out").tasks[0].samples
    assert caplog.messages[0].startswith(f"left out 2 damaged pictures: {of_test[0]} {reason}")
    assert caplog.messages[1:] == [second]
    assert isinstance(left, FileImages)
    assert isinstance(whole, FileImages)
    assert set(whole.paths) - set(left.paths) == set(of_test[:2])
    for path in (photos / "train" / CLASSES[0]).iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"train/{CLASSES[0]} holds no picture that is not damaged"):
        folder(root=str(photos), broken="leave_out")


def test_folders_beside_train_and_test_are_named(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photos / "notes").mkdir()
    folder(root=str(photos))
    assert caplog.text == ""
    picture(photos / "val" / "zebra" / "0.png")
    folder(root=str(photos))
    assert f"{photos}: train and test are used, but not val (sequence=manifest" in caplog.text


def test_without_numbers_all_classes_are_in_the_base_session(photos: Path) -> None:
    sequence = folder(root=str(photos))
    assert [len(session.new) for session in sequence.sessions] == [3]


def test_one_tree_is_divided_with_a_seed_of_its_own(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    def make(**options: object) -> tuple[list[str], list[str]]:
        sequence = folder(root=str(tree), base_classes=2, way=1, **options)  # type: ignore[arg-type]  # keywords
        return tuple([n for p in parts for n in paths(p)] for parts in (  # type: ignore[return-value]  # two parts
            [session.train for session in sequence.sessions], [task.samples for task in sequence.tasks],
        ))  # fmt: skip

    with caplog.at_level(logging.INFO, "everclip"):
        train, test = make()
    assert "testing on 9 of 30 pictures (sequence.test_share=0.3, sequence.test_seed=0)" in caplog.text
    assert (len(train), len(test)) == (21, 9)
    assert set(train).isdisjoint(test)
    assert make(seed=1)[1] == test
    assert make(test_seed=1)[1] != test
    assert len(make(test_share=0.01)[1]) == 3


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        for i in range(2):
            picture(tmp_path / name / f"{i}.png")
    assert folder(root=str(tmp_path)).sessions[0].new.names == ("bus", "train")


def test_classes_may_be_listed_by_name(photos: Path) -> None:
    sequence = folder(root=str(photos), base_classes=1, way=1, class_order=["zebra", "black footed albatross"])
    assert sequence.sessions[-1].seen.names == ("zebra", "black footed albatross")
    assert sequence.class_order == "listed"


def test_names_come_from_a_file(photos: Path, tmp_path: Path) -> None:
    lines, table = tmp_path / "names.txt", tmp_path / "names.json"
    lines.write_text("seabird\nstriped horse\n動物\n", encoding="utf-8-sig")
    table.write_text(json.dumps(dict(zip(CLASSES, ("seabird", "striped horse", "動物"), strict=True))))
    for path in (lines, table):
        assert folder(root=str(photos), names=str(path)).sessions[0].new.names == ("seabird", "striped horse", "動物")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("names.txt", "a\nb\n", "names.txt has 2 lines, but there are 3 classes"),
        ("names.txt", "a\nA\nb\n", "classes 'black-footed_albatross' and 'zebra' are both named 'A'; tell them apart"),
        ("names.txt", "a\n \nb\n", "class 'zebra' has an empty name"),
        ("names.json", "[1]", "names.json must be one JSON object"),
        ("names.json", "{", "names.json is no JSON"),
        ("names.json", '{"zebra": "a"}', "names.json has no name for class 'black-footed_albatross'"),
        ("names.json", json.dumps(dict.fromkeys((*CLASSES, "gnu"), "x")), "names 'gnu', but there is no such class"),
    ],
)
def test_names_that_do_not_fit(file: str, content: str, message: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        folder(root=str(photos), names=str(tmp_path / file))


def test_folders_of_one_name_are_an_error(tree: Path) -> None:
    (tree / "zebra").rename(tree / "black_footed-Albatross")
    with pytest.raises(
        DataError, match=r"classes 'black-footed_albatross' and 'black_footed-Albatross' are both named"
    ):
        folder(root=str(tree))


def test_a_folder_without_a_name_is_an_error(tree: Path) -> None:
    (tree / "zebra").rename(tree / "_-_")
    with pytest.raises(DataError, match=r"class '_-_' has an empty name; give it one with sequence\.names=FILE"):
        folder(root=str(tree))


def test_an_empty_class_folder_is_named(photos: Path, tree: Path) -> None:
    for path in (photos / "test" / "zebra").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="test/zebra holds no pictures"):
        folder(root=str(photos))
    (tree / "nothing").mkdir()
    with pytest.raises(DataError, match="tree/nothing holds no pictures"):
        folder(root=str(tree))


def test_a_single_picture_cannot_be_divided(tree: Path) -> None:
    alone = picture(tree / "gnu" / "one.png")
    with pytest.raises(DataError, match=f"{alone} is the only picture of its class"):
        folder(root=str(tree))


def test_fewer_pictures_than_shots(photos: Path) -> None:
    with pytest.raises(DataError, match="class 'ästhetisches Tier 動物' has 4 training pictures, fewer than 5 shots"):
        folder(root=str(photos), base_classes=2, shots=5)


def test_a_missing_folder_is_named(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(MissingError, match=f"sequence.root={tmp_path}/none: no such folder"):
        folder(root=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match=f"sequence.root: {tmp_path}/empty holds no class folders"):
        folder(root=str(tmp_path / "empty"))
    shutil.rmtree(photos / "test")
    with pytest.raises(MissingError, match=r"no folder .*/test; expected train/<class>/\* and test/<class>/\*"):
        folder(root=str(photos))


def test_a_test_folder_of_an_unknown_class_is_named(photos: Path) -> None:
    picture(photos / "test" / "gnu" / "0.png")
    with pytest.raises(DataError, match=r"test/gnu has no training folder .*train/gnu"):
        folder(root=str(photos))


def test_what_is_no_picture_is_not_passed_over_silently(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tree / "zebra" / "a.heic").touch()
    (tree / "zebra" / "b.heic").touch()
    (tree / "zebra" / ".DS_Store").touch()
    assert sum(len(session.train) for session in folder(root=str(tree)).sessions) == 21
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"{tree}: 2 entries are no pictures and left out, one is {tree}/zebra/a.heic"]


def test_a_test_picture_that_is_a_training_picture_is_named(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder(root=str(photos))
    assert caplog.messages == []
    original, copy = photos / "train" / "zebra" / "train 1.png", photos / "test" / CLASSES[2] / "copy.png"
    shutil.copy(original, copy)
    folder(root=str(photos))
    message, _ = caplog.messages  # the second: it is of another class there
    assert message == (
        f"1 test pictures are training pictures too, byte for byte; one is {copy}, the same as {original}"
    )


@pytest.mark.parametrize("make", [lambda top: top / "zebra", lambda top: next((top / "zebra").iterdir())])
def test_what_may_not_be_read_is_named(unprivileged: Path, make: Callable[[Path], Path]) -> None:
    for name in ("gnu", "zebra"):
        for i in range(4):
            picture(unprivileged / name / f"{i}.png")
    forbidden = make(unprivileged)
    forbidden.chmod(0)
    with pytest.raises(DataError, match=f"{forbidden} cannot be read"):
        folder(root=str(unprivileged))


@pytest.mark.parametrize(
    ("change", "options"),
    [
        pytest.param(lambda top: picture(top / "train" / "zebra" / "x.png"), {}, id="file"),
        pytest.param(
            lambda top: next((top / "test" / "zebra").iterdir()).rename(top / "test/zebra/y.png"), {}, id="name"
        ),
        pytest.param(lambda top: Image.new("L", (9, 7)).save(top / "train/zebra/train 0.png"), {}, id="size"),
        pytest.param(None, {"class_order": "seed0"}, id="order"),
        pytest.param(None, {"shots": 2}, id="shots"),
        pytest.param(None, {"shots": 2, "seed": 1}, id="seed"),
        pytest.param(None, {"base_classes": 1}, id="base"),
    ],
)
def test_the_fingerprint_covers_files_and_protocol(
    change: Callable[[Path], object] | None, options: dict[str, object], photos: Path
) -> None:
    def fingerprint(top: Path, **more: object) -> str:
        return folder(root=str(top), **{"base_classes": 2, "way": 1, **more}).fingerprint()  # type: ignore[arg-type]  # keywords

    seedless = {key: value for key, value in options.items() if key != "seed"} if "seed" in options else {}
    before = fingerprint(photos, **seedless)
    moved = photos.rename(photos.with_name("elsewhere"))
    assert fingerprint(moved, **seedless) == before
    if change:
        change(moved)
    assert fingerprint(moved, **options) != before
