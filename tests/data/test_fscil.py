"""The published few-shot class-incremental sequences, read from tiny replicas in the publishers' layouts."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image
from torchvision.transforms import PILToTensor

from everclip.config.build import build
from everclip.config.checks import check_group
from everclip.data.datasets.base import split_lines
from everclip.errors import DataError, MissingError
from everclip.types import TaskSequence

Compose = Callable[..., DictConfig]


def make(compose: Compose, name: str, root: Path, *overrides: str) -> TaskSequence:
    config = compose(f"sequence={name}", f"paths.data={root}", *overrides)
    check_group("sequence", config.sequence)
    sequence: TaskSequence = build("sequence", config.sequence)
    return sequence


def write_cifar100(root: Path, rows: int = 50000, shift: int = 0) -> None:
    """The archive with grey pictures whose labels agree with the published lists."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    labels = np.arange(rows) % 60
    for session in range(2, 10):
        listed = [int(line) for line in split_lines("cifar100", f"session_{session}.txt")]
        labels[listed] = np.repeat(np.arange(60 + 5 * (session - 2), 65 + 5 * (session - 2)), 5) + shift
    for split, split_labels in (("train", labels), ("test", np.arange(1000) % 100)):
        data = np.zeros((len(split_labels), 3072), np.uint8)
        data[:, :1024] = (split_labels * 2)[:, None]
        content = {"data": data, "fine_labels": split_labels.tolist(), "filenames": []}
        (folder / split).write_bytes(pickle.dumps(content, protocol=2))
    names = [f"class_{i}" for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))


def test_cifar100_sessions(compose: Compose, tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    sequence = make(compose, "fscil_cifar100", tmp_path)
    assert [len(session.new) for session in sequence.sessions] == [60, *[5] * 8]
    assert [len(session.train) for session in sequence.sessions[1:]] == [25] * 8
    assert np.cumsum([len(task.samples) for task in sequence.tasks]).tolist() == list(range(600, 1001, 50))
    assert sequence.sessions[1].new.names == tuple(f"class {i}" for i in range(60, 65))
    for session in sequence.sessions[1:]:
        assert np.bincount(session.train.labels)[list(session.new.ids)].tolist() == [5] * 5
    picture = sequence.tasks[8].samples.read([0], PILToTensor()).images
    assert picture.shape[1:] == (3, 32, 32)
    assert picture[0, :, 0, 0].tolist() == [2 * sequence.tasks[8].samples.labels[0], 0, 0]


def test_lists_of_another_order_are_refused(compose: Compose, tmp_path: Path) -> None:
    write_cifar100(tmp_path, shift=-1)
    with pytest.raises(DataError, match=r"session_2\.txt does not hold 5 pictures of classes \[60, 61, 62, 63, 64\]"):
        make(compose, "fscil_cifar100", tmp_path)


def test_a_seeded_draw_needs_no_lists(compose: Compose, tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    first, second = (
        make(compose, "fscil_cifar100", tmp_path, "sequence.draw=seeded", f"sequence.seed={seed}", "sequence.shots=3")
        for seed in (0, 1)
    )
    assert [len(session.train) for session in first.sessions[1:]] == [15] * 8
    assert first.fingerprint() != second.fingerprint()


def test_a_pickle_with_code_is_not_run(compose: Compose, tmp_path: Path) -> None:
    write_cifar100(tmp_path, rows=50000)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'run')!r}, 'w')",))

    (tmp_path / "cifar-100-python" / "meta").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match=r"meta cannot be read as a CIFAR file: builtins\.exec has no place"):
        make(compose, "fscil_cifar100", tmp_path)
    assert not (tmp_path / "run").exists()


def test_missing_cifar100_says_where_it_belongs(compose: Compose, tmp_path: Path) -> None:
    message = f"CIFAR-100: {tmp_path}/cifar-100-python/train is not there; everclip-data prepare cifar100"
    with pytest.raises(MissingError, match=message):
        make(compose, "fscil_cifar100", tmp_path)


def write_cub200(root: Path) -> None:
    """Two training pictures of each base class, the listed ones of the others, one test picture of each."""
    folder = root / "CUB_200_2011"
    images = {}
    for session in range(2, 12):
        for line in split_lines("cub200", f"session_{session}.txt"):
            images[line.removeprefix("CUB_200_2011/images/")] = 1
    names = {image.split("/")[0] for image in images} | {f"{i:03d}.Bird_{i}" for i in range(1, 101)}
    for name in sorted(names):
        images |= {f"{name}/test.jpg": 0}
        if int(name[:3]) <= 100:
            images |= {f"{name}/a.jpg": 1, f"{name}/b.jpg": 1}
    pixel = Image.new("RGB", (6, 4), (10, 20, 30))
    for image in images:
        (folder / "images" / image).parent.mkdir(parents=True, exist_ok=True)
        pixel.save(folder / "images" / image)
    ordered = sorted(images)
    lists = {
        "classes.txt": sorted(names),
        "images.txt": ordered,
        "image_class_labels.txt": [str(int(image[:3])) for image in ordered],
        "train_test_split.txt": [str(images[image]) for image in ordered],
    }
    for name, values in lists.items():
        (folder / name).write_text("".join(f"{i} {value}\n" for i, value in enumerate(values, start=1)))


def test_cub200_sessions(compose: Compose, tmp_path: Path) -> None:
    write_cub200(tmp_path)
    sequence = make(compose, "fscil_cub200", tmp_path)
    assert [len(session.new) for session in sequence.sessions] == [100, *[10] * 10]
    assert [len(session.train) for session in sequence.sessions] == [200, *[50] * 10]
    assert [len(task.samples) for task in sequence.tasks] == [100, *[10] * 10]
    assert sequence.sessions[1].new.names[0] == "White Pelican"
    assert sequence.sessions[0].new.templates == ("a photo of a {}, a type of bird.",)
    assert sequence.fingerprint() == make(compose, "fscil_cub200", tmp_path).fingerprint()
    (tmp_path / "CUB_200_2011" / "images" / "001.Bird_1" / "a.jpg").unlink()
    with pytest.raises(MissingError, match=r"001\.Bird_1/a\.jpg is not there"):
        make(compose, "fscil_cub200", tmp_path)


def test_mini_imagenet_sessions(compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from everclip.data.datasets import mini_imagenet

    listed = {
        Path(line).name for session in range(2, 10) for line in split_lines("mini_imagenet", f"session_{session}.txt")
    }

    def few(*parts: str) -> list[str]:
        """The published lists with three pictures per base class and two test pictures; listed shots are all kept."""
        lines = [line.split() for line in split_lines(*parts)]
        if parts[-1] == "test_index.txt":
            return [" ".join(words[:3]) for words in lines]
        if parts[-1] == "train_index.txt":
            kept = [
                words[1:4] if label < 60 else [n for n in words[1:] if f"{words[0]}{int(n):08d}.jpg" in listed]
                for label, words in enumerate(lines)
            ]
            return [" ".join([words[0], *numbers]) for words, numbers in zip(lines, kept, strict=True)]
        return split_lines(*parts)

    monkeypatch.setattr(mini_imagenet, "split_lines", few)
    folder = tmp_path / "miniimagenet" / "images"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        for wnid, *numbers in (line.split() for line in few("mini_imagenet", f"{split}_index.txt")):
            for number in numbers:
                (folder / f"{wnid}{int(number):08d}.jpg").touch()
    sequence = make(compose, "fscil_miniimagenet", tmp_path)
    assert [len(session.train) for session in sequence.sessions] == [180, *[25] * 8]
    assert [len(task.samples) for task in sequence.tasks] == [120, *[10] * 8]
    assert sequence.sessions[0].new.names[0] == "house finch"
    assert sequence.sessions[1].new.names[0] == "hourglass"
    chosen = sequence.sessions[1].train
    first = {Path(line).name for line in split_lines("mini_imagenet", "session_2.txt")}
    assert {path.name for path in chosen.paths} == first  # type: ignore[attr-defined]  # FileImages
    (folder / sorted(first)[0]).unlink()
    with pytest.raises(MissingError, match=f"miniImageNet: .*{sorted(first)[0]} is not there"):
        make(compose, "fscil_miniimagenet", tmp_path)


@pytest.mark.parametrize(
    ("name", "sessions", "size"), [("cifar100", 8, 25), ("mini_imagenet", 8, 25), ("cub200", 10, 50)]
)
def test_published_lists_are_whole_and_disjoint(name: str, sessions: int, size: int) -> None:
    listed = [split_lines(name, f"session_{number}.txt") for number in range(2, sessions + 2)]
    assert [len(set(lines)) for lines in listed] == [size] * sessions
    assert len(set().union(*listed)) == size * sessions


def test_mini_imagenet_lists_have_the_published_sizes() -> None:
    train = [line.split() for line in split_lines("mini_imagenet", "train_index.txt")]
    test = [line.split() for line in split_lines("mini_imagenet", "test_index.txt")]
    assert {len(words) - 1 for words in train} == {500}
    assert {len(words) - 1 for words in test} == {100}
    assert [words[0] for words in train] == sorted(words[0] for words in train)
    assert [words[0] for words in train] == [words[0] for words in test]


FIRST_AND_LAST = {
    "cifar100": ("29774", "47507"),
    "cub200": ("White_Pelican_0081_96148.jpg", "Common_Yellowthroat_0032_190592.jpg"),
    "mini_imagenet": ("n0354414300000811.jpg", "n1313361300001231.jpg"),
}


@pytest.mark.parametrize(("name", "sessions"), [("cifar100", 8), ("mini_imagenet", 8), ("cub200", 10)])
def test_published_lists_begin_and_end_as_published(name: str, sessions: int) -> None:
    first, last = split_lines(name, "session_2.txt")[0], split_lines(name, f"session_{sessions + 1}.txt")[-1]
    assert (first.rpartition("/")[2], last.rpartition("/")[2]) == FIRST_AND_LAST[name]


@pytest.mark.parametrize(("name", "base", "way"), [("mini_imagenet", 60, 5), ("cub200", 100, 10)])
def test_published_lists_hold_five_pictures_of_each_class_of_their_session(name: str, base: int, way: int) -> None:
    """Those of CIFAR-100 are row numbers without labels; building the sequence compares them with the data set."""
    ranks = {line.split()[1]: int(line.split()[0]) for line in split_lines("mini_imagenet", "classes.txt")}
    for number, first in enumerate(range(base, 100 if base == 60 else 200, way), start=2):
        folders = [Path(line).parent.name for line in split_lines(name, f"session_{number}.txt")]
        labels = [ranks[folder] if name == "mini_imagenet" else int(folder[:3]) - 1 for folder in folders]
        assert sorted(labels) == np.repeat(range(first, first + way), 5).tolist()
