"""Continual image-text retrieval: published sequences on tiny copies in their publishers' layouts, and one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from everclip.config.build import build
from everclip.config.catalogue import read_option
from everclip.config.checks import check_group, check_values
from everclip.data.captions.samples import CaptionedData
from everclip.data.datasets.spec import spec
from everclip.data.images import ArrayImages
from everclip.data.pairs import CaptionedImages
from everclip.data.sequences import retrieval
from everclip.data.validation import hold_out
from everclip.errors import ConfigError, DataError, MissingError
from everclip.metrics.matrix import per_task_metrics
from everclip.types import NO_CLASS, Samples, TaskSequence
from tests.data.conftest import paths, picture

Compose = Callable[..., DictConfig]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def karpathy(folder: Path, name: str, pictures: str, splits: Sequence[str], captions: int = 5) -> None:
    """A list of Karpathy's with a picture for each split given, called by its number, and their pictures."""
    images = []
    for number, split in enumerate(splits):
        place = {"filepath": "val2014"} if pictures == "val2014" else {}
        sentences = [{"raw": f"{name} {number} {k}"} for k in range(captions)]
        images.append({**place, "filename": f"{number}.png", "split": split, "sentences": sentences})
        picture(folder / pictures / f"{number}.png")
    write(folder / f"dataset_{name}.json", {"images": images})


def flickr30k(root: Path) -> None:
    karpathy(root / "flickr30k", "flickr30k", "flickr30k-images", ["train", "test", "val", *["train"] * 10])


def coco(root: Path) -> None:
    folder = root / "coco"
    karpathy(folder, "coco", "val2014", ["test", "restval", "val"], captions=6)
    for part in ("train2014", "val2014", "train2017", "val2017"):
        names = [f"{part}_{number}.png" for number in range(2)]
        images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
        annotations = [{"image_id": k % 2, "id": k, "caption": f"{part} {k}"} for k in range(14)]
        write(folder / "annotations" / f"captions_{part}.json", {"images": images, "annotations": annotations})
        for name in names:
            picture(folder / part / name)


def nocaps(root: Path) -> None:
    images = [{"id": 0, "file_name": "x.png"}]
    annotations = [{"image_id": 0, "id": k, "caption": f"nocaps {k}"} for k in range(10)]
    write(root / "nocaps/nocaps_val_4500_captions.json", {"images": images, "annotations": annotations})
    picture(root / "nocaps/images/x.png")


def rocov2(root: Path) -> None:
    for part in ("train", "valid", "test"):
        write(root / f"rocov2/{part}_captions.csv", f'ID,Caption\nROCO_{part},"CT, {part}"\n')
        (root / "rocov2" / part).mkdir(parents=True)
        picture(root / "rocov2" / part / "x.png").rename(root / "rocov2" / part / f"ROCO_{part}.jpg")


def listed(root: Path, key: str) -> None:
    rows = [{"image": f"{n}.png", "caption": f"{key} {n}", "split": "test" if n == 2 else "train"} for n in range(3)]
    write(root / key / "captions.jsonl", "\n".join(map(json.dumps, rows)))
    for n in range(3):
        picture(root / key / f"{n}.png")


def settings(name: str, root: Path, dataset: str | None = None, **changes: Any) -> DictConfig:
    """A sequence's settings, without composing all others."""
    node = OmegaConf.merge(read_option("sequence", name, dataset), changes)
    whole = OmegaConf.create({"paths": {"data": str(root), "cache": str(root)}, "seed": 0, "sequence": node})
    check_group("sequence", whole.sequence)
    sequence: DictConfig = whole.sequence
    return sequence


def names(samples: Samples) -> list[str]:
    return paths(samples.pictures)


def test_mod_x_trains_on_coco_then_on_fifths_of_flickr(tmp_path: Path) -> None:
    flickr30k(tmp_path)
    coco(tmp_path)
    sequence: TaskSequence = build("sequence", settings("retrieval_flickr_5phase", tmp_path))
    trained = [names(session.train) for session in sequence.sessions]
    assert trained[0] == ["train2014_0.png", "train2014_1.png"]
    # All but the test picture, in the order of the file: twelve, as int(12 / 5 * k) divides them.
    assert trained[1:] == [
        [f"{number}.png" for number in own] for own in ((0, 2), (3, 4), (5, 6, 7), (8, 9), (10, 11, 12))
    ]
    assert [(task.name, task.session, names(task.samples)) for task in sequence.tasks] == [
        ("coco_captions", 0, ["0.png"]), ("flickr30k", 1, ["1.png"]),
    ]  # fmt: skip
    assert [len(own) for task in sequence.tasks for own in task.samples.texts] == [5, 5]  # of six
    assert len(sequence.sessions[0].train.texts[0]) == 7
    assert [sequence.evaluated(session) for session in range(6)] == [[0, 1]] * 6
    held = hold_out(sequence, 0.5)  # sessions without a task of their own are judged as the latest that has one
    assert [len(task.samples) for task in held.tasks] == [1, 1, 1, 2, 1, 2]


def test_dar_trains_on_seven_domains_and_is_judged_by_nine(tmp_path: Path) -> None:
    chosen = settings("retrieval_dar", tmp_path)
    flickr30k(tmp_path)
    said = r"Lexica: .*/lexica/captions\.jsonl is not there; everclip-data prepare lexica"
    with pytest.raises(MissingError, match=said):
        build("sequence", chosen)
    for make in (coco, nocaps, rocov2):
        make(tmp_path)
    keys = ("lexica", "wikiart", "kream", "flintstones", "sketch")
    for key in keys:
        listed(tmp_path, key)
    sequence: TaskSequence = build("sequence", chosen)
    assert [session.name for session in sequence.sessions] == ["flickr30k", *keys, "rocov2"]
    assert [(task.name, task.session) for task in sequence.tasks][6:] == [
        ("rocov2", 6), ("coco_captions", None), ("nocaps", None),
    ]  # fmt: skip
    assert sequence.tasks[6].samples.texts == (("CT, test",),)
    assert len(sequence.tasks[8].samples.texts[0]) == 10
    backwards: TaskSequence = build("sequence", settings("retrieval_dar", tmp_path, reverse=True))
    assert [session.name for session in backwards.sessions] == ["rocov2", *keys[::-1], "flickr30k"]
    assert [task.session for task in backwards.tasks] == [0, 1, 2, 3, 4, 5, 6, None, None]


@pytest.mark.parametrize("name", ["retrieval_dar", "retrieval_flickr_5phase"])
def test_published_domains_may_leave_out_broken_pairs(name: str, tmp_path: Path) -> None:
    for make in (flickr30k, coco, nocaps, rocov2):
        make(tmp_path)
    for key in ("lexica", "wikiart", "kream", "flintstones", "sketch"):
        listed(tmp_path, key)
    (tmp_path / "flickr30k/flickr30k-images/0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png is not there .*sequence\.broken=leave_out"):
        build("sequence", settings(name, tmp_path))
    whole: TaskSequence = build("sequence", settings(name, tmp_path, broken="leave_out"))
    trained = [number for session in whole.sessions for number in names(session.train) if session.name[:6] == "flickr"]
    assert "3.png" in trained
    assert "0.png" not in trained


@pytest.mark.parametrize(
    ("key", "split", "counts", "captions"),
    [
        ("coco_captions", "karpathy", (1, 1, 1), (6, 5)),
        ("coco_captions", "2017", (2, 0, 2), (14, 10)),
        ("flickr30k", "karpathy", (11, 1, 1), (55, 5)),
        ("flickr8k", "karpathy", (1, 0, 1), (5, 5)),
        ("flickr8k", "kaggle", (0, 0, 2), (0, 2)),
        ("rocov2", "official", (1, 1, 1), (1, 1)),
    ],
)
def test_published_pairs_are_divided_as_published(
    key: str, split: str, counts: tuple[int, int, int], captions: tuple[int, int], tmp_path: Path
) -> None:
    for make in (coco, flickr30k, rocov2):
        make(tmp_path)
    karpathy(tmp_path / "flickr8k", "flickr8k", "Images", ["train", "test"])
    write(tmp_path / "flickr8k/captions.txt", "image,caption\n0.png,x\n1.png,y\n")
    data = spec(key).load(tmp_path, split)
    assert (len(data.train), len(data.val or ()), len(data.test)) == counts
    assert tuple(sum(map(len, part.texts)) for part in (data.train, data.test)) == captions


def test_long_captions_are_divided_as_long_clip_does(tmp_path: Path) -> None:
    turn = {"from": "gpt", "value": "a long caption"}
    items = [{"image": f"coco/{n}.png", "conversations": [turn]} for n in range(1001)]
    write(tmp_path / "sharegpt4v/sharegpt4v_instruct_gpt4-vision_cap100k.json", items)
    content = picture(tmp_path / "x.png").read_bytes()
    (tmp_path / "sharegpt4v/data/coco").mkdir(parents=True)
    for n in range(1001):
        (tmp_path / f"sharegpt4v/data/coco/{n}.png").write_bytes(content)
    data = spec("sharegpt4v").load(tmp_path, "gpt4v")
    assert (names(data.train), len(data.test)) == (["1000.png"], 1000)


def test_one_session_of_pairs(tmp_path: Path) -> None:
    sequence: TaskSequence = build("sequence", settings("pairs", tmp_path))
    assert (sequence.name, len(sequence.sessions), len(sequence.tasks)) == ("pairs_scenes", 1, 1)
    everything: TaskSequence = build("sequence", settings("pairs", tmp_path, caption="all"))
    train = everything.sessions[0].train
    assert (len(train), train.texts[1]) == (1000, sequence.sessions[0].train.texts[0][1:2])
    assert everything.tasks[0].samples.texts == sequence.tasks[0].samples.texts


@pytest.mark.parametrize(("name", "other"), [("pairs", "dtd"), ("few_shot", "flickr30k")])
def test_a_data_set_of_the_other_kind_is_refused_by_its_kind(name: str, other: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"sequence\.dataset: {name} takes '.* split', this is '.* split'"):
        settings(name, tmp_path, other)


def test_what_a_part_requires_is_asked_for_by_its_key(compose: Compose) -> None:
    with pytest.raises(ConfigError, match=r"sequence\.dataset\.root is required; give it as sequence\.dataset\.root="):
        check_values(compose("sequence=pairs", "sequence/dataset=own_pairs"))


def test_own_lists_say_their_sessions(tmp_path: Path) -> None:
    lines = [f"{n}.png,c{n},{'test' if n % 2 else 'train'},{10 if n < 2 else 9}" for n in range(4)]
    for n in range(4):
        picture(tmp_path / f"{n}.png")
    write(tmp_path / "photos.csv", "\n".join(["path,caption,split,session", *lines]))
    sequence = retrieval.folder(root=str(tmp_path / "photos.csv"))
    assert [(session.name, names(session.train)) for session in sequence.sessions] == [
        ("9", ["2.png"]),
        ("10", ["0.png"]),
    ]
    assert [names(task.samples) for task in sequence.tasks] == [["3.png"], ["1.png"]]
    write(tmp_path / "photos.csv", "\n".join(["path,caption,split,session", *lines[:3], "3.png,c3,test,"]))
    with pytest.raises(DataError, match=r"photos\.csv: 3\.png has no session, as others do"):
        retrieval.folder(root=str(tmp_path / "photos.csv"))


def test_own_folders_are_sessions(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"holds neither captions\.jsonl"):
        retrieval.folder(root=str(tmp_path))
    for key in ("birds", "art"):
        listed(tmp_path, key)
    (tmp_path / "notes").mkdir()
    sequence = retrieval.folder(root=str(tmp_path))
    assert [session.name for session in sequence.sessions] == ["art", "birds"]
    assert sequence.name == f"retrieval_folder_{tmp_path.name}"
    with pytest.raises(ConfigError, match=r"sequence\.pictures: .* has a list per session"):
        retrieval.folder(root=str(tmp_path), pictures=str(tmp_path))
    write(tmp_path / "art/captions.jsonl", '{"image": "0.png", "caption": "x", "split": "train"}')
    with pytest.raises(DataError, match="art has no test pairs"):
        retrieval.folder(root=str(tmp_path))


def test_damaged_pictures_of_ones_own_are_refused_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(4):
        picture(tmp_path / f"{n}.png")
    write(tmp_path / "1.png", "no picture")
    lines = [f"{n}.png,c{n} {k},{'test' if n == 3 else 'train'}" for n in range(4) for k in range(2)]
    write(tmp_path / "captions.csv", "\n".join(["path,caption,split", *lines]))
    with pytest.raises(DataError, match=r"1\.png cannot be read as a picture: .*; mend or remove .*of sequence=pairs"):
        retrieval.folder(root=str(tmp_path))
    sequence = retrieval.folder(root=str(tmp_path), broken="leave_out")
    assert names(sequence.sessions[0].train) == ["0.png", "2.png"]
    assert f"left out 1 damaged picture: {tmp_path / '1.png'}" in caplog.text
    for n in range(4):
        write(tmp_path / f"{n}.png", "no picture")
    with pytest.raises(DataError, match=r"captions\.csv: .* has damaged files alone"):
        retrieval.folder(root=str(tmp_path), broken="leave_out")


def made(name: str, train: int) -> CaptionedData:
    def samples(count: int) -> CaptionedImages:
        pictures = ArrayImages(np.zeros((count, 2, 2, 3), np.uint8), np.full(count, NO_CLASS), name)
        return CaptionedImages(pictures, [[f"{name} {n}"] for n in range(count)])

    return CaptionedData(name, samples(train), samples(1))


def test_sequences_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"sequence\.domains=\['a', 'a'\]: must be one or more, each once"):
        retrieval.domains(name="x", domains=[made("a", 1)], unseen=[made("a", 0)])
    with pytest.raises(DataError, match="a has no training pairs"):
        retrieval.pairs(dataset=made("a", 0))
    with pytest.raises(ConfigError, match=r"sequence\.phases=3: b has 2 training pictures"):
        retrieval.phases(name="x", base=lambda **_: made("a", 1), stream=lambda **_: made("b", 2), phases=3)


def test_tasks_may_be_fewer_than_sessions() -> None:
    matrix = np.array([[50.0, 10.0], [40.0, 30.0], [20.0, 35.0], [25.0, 33.0]])
    metrics = per_task_metrics("recall", matrix)
    assert metrics["forgetting"] == (25 + 2) / 2
    assert metrics["backward_transfer"] == (-25 + 3) / 2
    assert metrics["last_recall"] == 29
