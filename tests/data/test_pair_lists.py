"""Lists of image-text pairs in every publisher's form; what of them cannot be used."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everclip.data.captions import formats, own
from everclip.data.captions.formats import read_list
from everclip.data.captions.pair_list import collect
from everclip.data.captions.samples import CaptionedData, shown
from everclip.errors import DataError, MissingError
from everclip.types import Samples
from tests.data.conftest import paths, picture

TWO = {"a.png": ["a cat", "one cat"], "b.png": ["a dog, running", "dogs | two"]}
DIRECTORY = "conversations"


def coco() -> Any:
    images = [{"id": 7, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}]
    owners = {7: TWO["b.png"], 3: TWO["a.png"]}
    rows = [
        {"image_id": owner, "id": 10 * owner + k, "caption": f"{owners[owner][k]}\n"}
        for k in (0, 1)
        for owner in (3, 7)
    ]
    return {"images": images, "annotations": rows}


def karpathy() -> Any:
    def image(name: str, split: str) -> dict[str, Any]:
        return {"filename": name, "split": split, "sentences": [{"raw": text, "tokens": []} for text in TWO[name]]}

    return {"dataset": "flickr8k", "images": [image("a.png", "restval"), image("b.png", "test")]}


def sharegpt4v() -> Any:
    def item(name: str) -> dict[str, Any]:
        turns = [("human", "What is this?\n<image>"), ("gpt", ". ".join(TWO[name])), ("gpt", "no more")]
        return {"id": name, "image": name, DIRECTORY: [{"from": who, "value": text} for who, text in turns]}

    return [item("a.png"), item("b.png")]


KAGGLE_8K = 'image,caption\na.png,a cat\na.png,one cat\nb.png,"a dog, running"\nb.png,dogs | two\n'
KAGGLE_30K = (
    "image_name| comment_number| comment\na.png| 0| a cat\na.png| 1   one cat\nb.png| 0| a dog, running\n"
    "b.png| 1| dogs | two\n"
)
OWN = (
    "\ufeffpath,caption,split,session\r\na.png,a cat,train,1\r\na.png,one cat,train,1\r\n"
    'b.png,"a dog, running",test,0\r\n'
)
JSONL = (
    '{"image": "a.png", "captions": ["a cat", "one cat"], "split": "train", "session": 1}\n\n'
    '{"file_name": "b.png", "text": "a dog, running", "split": "test", "session": "0"}\n'
)
LONG = {"a.png": ["a cat. one cat"], "b.png": ["a dog, running. dogs | two"]}
ONE_DOG = TWO | {"b.png": ["a dog, running"]}

FORMS: dict[str, tuple[str, str, dict[str, list[str]]]] = {
    "kaggle-8k": ("captions.txt", KAGGLE_8K, TWO),
    "kaggle-30k": ("results.csv", KAGGLE_30K, TWO),
    "own": ("captions.csv", OWN, ONE_DOG),
    "json-lines": ("captions.jsonl", JSONL, ONE_DOG),
    "coco": ("captions_val2014.json", json.dumps(coco()), {name: TWO[name] for name in ("b.png", "a.png")}),
    "karpathy": ("dataset_flickr8k.json", json.dumps(karpathy()), TWO),
    "sharegpt4v": ("share.json", json.dumps(sharegpt4v(), indent=1), LONG),
}


def put(folder: Path, name: str, text: str) -> Path:
    for own_name in TWO:
        picture(folder / "Images" / own_name)
    (folder / name).write_text(text, newline="")
    return folder / name


@pytest.mark.parametrize("form", FORMS)
def test_every_publishers_form_is_read(form: str, tmp_path: Path) -> None:
    name, text, expected = FORMS[form]
    pairs = read_list(put(tmp_path, name, text))
    entries, notes = collect(pairs)
    assert {entry.picture: entry.texts for entry in entries} == expected
    assert list(expected) == [entry.picture for entry in entries]
    assert notes == []
    assert pairs.folder == tmp_path / "Images"
    if form in ("own", "json-lines"):
        assert [(entry.split, entry.session) for entry in entries] == [("train", "1"), ("test", "0")]
    if form == "karpathy":
        assert [entry.split for entry in entries] == ["train", "test"]


def test_captions_over_several_lines_are_one(tmp_path: Path) -> None:
    put(tmp_path, "captions.csv", 'path,caption\na.png,"one\u2028line\n\nand more"\nb.png,\n')
    with pytest.raises(DataError, match=r"captions\.csv, line 5: b\.png has an empty caption; mend the list, or leave"):
        collect(read_list(tmp_path / "captions.csv"))
    (entry,), _ = collect(read_list(tmp_path / "captions.csv"), "leave_out")
    assert entry.texts == ["one\u2028line\n\nand more"]


# id: name, text, what is said
BAD: dict[str, tuple[str, str, str]] = {
    "missing-picture": ("c.csv", "path,caption\na.png,x\nc.png,y\n", r"line 3: .*Images/c\.png is not there; mend"),
    "unnamed-picture": ("c.csv", "path,caption\na.png,x\n,y\n", r"c\.csv, line 3: no picture is named"),
    "empty-caption": ("c.jsonl", '{"image": "a.png", "captions": []}', r"line 1: a\.png has an empty caption"),
    "bare-picture": (
        "c.json", '{"images": [{"id": 5, "file_name": "a.png"}], "annotations": []}',
        r"c\.json, annotation 5: a\.png has an empty caption",
    ),
    "caption-twice": (
        "c.txt", "image,caption\na.png,x\nb.png,x\na.png,x \n", r"c\.txt, line 4: a\.png has the caption 'x' already",
    ),
    "train-and-test": (
        "c.csv", "path,caption,split\na.png,x,test\n./a.png,y,train\n",
        r"c\.csv, line 3: a\.png is in split train here, in test at 2",
    ),
    "two-sessions": (
        "c.csv", "path,caption,session\na.png,x,0\na.png,y,1\n",
        r"c\.csv, line 3: a\.png is in another session at 2, without a split",
    ),
    "split-of-some": (
        "c.jsonl", '{"image": "a.png", "caption": "x"}\n{"image": "b.png", "caption": "y", "split": "test"}',
        r"c\.jsonl, line 1: a\.png has no split, as others have; name it for all or for none",
    ),
    "split-once": (
        "c.jsonl", '{"image": "a.png", "caption": "x", "split": "test"}\n{"image": "a.png", "caption": "y"}',
        r"line 2: a\.png has no split, as others have",
    ),
    "many": (
        "c.csv", "path,caption\nc.png,x\nd.png,x\na.png,\n",
        r"c\.png is not there \(in all 2 captions of pictures that are not there, 1 empty captions\); mend",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_broken_pairs_are_named_and_refused(case: str, tmp_path: Path) -> None:
    name, text, said = BAD[case]
    with pytest.raises(DataError, match=said):
        collect(read_list(put(tmp_path, name, text)))


def test_broken_pairs_may_be_left_out_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["c.png,x,train", "a.png,,train", "a.png,y,train", "a.png,y,train", "b.png,z,train", "b.png,w,test"]
    path = put(tmp_path, "c.csv", "\n".join(["path,caption,split", *lines]))
    entries, _ = collect(read_list(path), "leave_out")
    assert [(e.picture, e.split, e.texts) for e in entries] == [("a.png", "train", ["y"]), ("b.png", "test", ["w"])]
    (said,) = caplog.messages
    assert said.startswith(
        f"{path}: left out 1 captions of pictures that are not there, 1 empty captions, 1 captions twice at a "
        f"picture, 1 pictures in two splits; the first: {path}, line 2: "
    )


def test_captions_are_told_apart_by_picture_whatever_a_publisher_numbers_them_by(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": name} for number, name in enumerate(("a.png", "b.png"))]
    annotations = [{"id": 7, "image_id": number, "caption": "x"} for number in range(2)]
    put(tmp_path, "c.json", json.dumps({"images": images, "annotations": annotations}))
    entries, _ = collect(read_list(tmp_path / "c.json"))
    assert [(entry.picture, entry.texts) for entry in entries] == [("a.png", ["x"]), ("b.png", ["x"])]


def test_a_publishers_captions_that_stand_twice_are_kept_and_told(tmp_path: Path) -> None:
    path = put(tmp_path, "c.txt", "image,caption\na.png,x\na.png,x\n")
    (entry,), notes = collect(read_list(path), published=True)
    assert entry.texts == ["x", "x"]
    assert notes == [f"1 captions stand twice at their picture and are kept; one is {path}, line 3"]


# id: name, text, what is said
OTHER: dict[str, tuple[str, str, str]] = {
    "above": ("c.csv", "path,caption\na/../../x.png,x\n", r"c\.csv, line 2: a/\.\./\.\./x\.png is not below"),
    "absolute": ("c.jsonl", '{"image": "/etc/passwd", "caption": "x"}', r"line 1: /etc/passwd is not below"),
    "columns": ("c.csv", "path,label\na,b\n", r"the first line is 'path,label', but must be path,caption"),
    "cells": ("c.csv", "path,caption\na.png\n", r"c\.csv, line 2: 1 values for the columns path,caption"),
    "split": ("c.csv", "path,caption,split\na.png,x,dev\n", r"line 2: split 'dev' must be train, val or test"),
    "bars": ("c.csv", "image_name| comment_number| comment\na.png, x\n", r"line 2: 'a.png, x' has not the form"),
    "long-cell": ("c.csv", f"path,caption\na.png,{'x' * 200_000}\n", r"c\.csv, line 2 cannot be read: field larger"),
    "no-json": ("c.jsonl", "\n[1", r"c\.jsonl, line 2 is no JSON"),
    "no-object": ("c.jsonl", "[1]", r"line 1: expected an object with image and captions"),
    "no-image": ("c.jsonl", '{"caption": "x"}', r"line 1 has no image \(or file_name or path or video\)"),
    "number": ("c.jsonl", '{"image": "a.png", "captions": [1]}', r"line 1: a caption must be text"),
    "session": ("c.jsonl", '{"image": "a.png", "caption": "x", "session": [1]}', r"line 1: session must be a name"),
    "form": ("c.json", '{"pictures": []}', r"c\.json is no list of captions: expected COCO's"),
    "stranger": (
        "c.json", '{"images": [], "annotations": [{"image_id": 1, "caption": "x", "id": 4}]}',
        r"c\.json, annotation 4 is of picture 1, which the file does not have",
    ),
    "coco-captions": (
        "c.json",
        '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": ["x", "y"]}]}',
        r"c\.json, annotation 0: a caption must be text",
    ),
    "long-name": ("c.csv", f"path,caption\n{'a' * 300}.png,x\n", r"c\.csv, line 2: .*a\.png is not there"),
    "coco-key": ("c.json", '{"images": [{"id": 1}], "annotations": []}', r"is no list of COCO: .* lacks 'file_name'"),
    "karpathy-key": ("c.json", '{"images": [{"sentences": [], "split": "test"}]}', r"picture 0 .* lacks 'filename'"),
    "no-answer": ("c.json", '[{"image": "a.png", "conversations": []}]', r"entry 0 has not .* lacks an answer"),
    "cut-off": ("c.json", '[{"image": "a.png", "conv', r"c\.json, entry 0 cannot be read as JSON"),
    "nothing": ("c.json", "[]", r"c\.json lists no image-text pairs"),
    "binary": ("c.csv", "\udcff", r"c\.csv cannot be read: .*utf-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER)
def test_lists_of_another_form_are_refused(case: str, tmp_path: Path) -> None:
    name, text, said = OTHER[case]
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=said):
        collect(read_list(tmp_path / name))


def test_a_long_list_is_read_item_by_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = [{"n": n, "text": "]},{[" * (n % 7)} for n in range(60)]
    (tmp_path / "c.json").write_text(json.dumps(content, indent=2))
    for block in (1, 7, 64, 10_000):
        monkeypatch.setattr(formats, "BLOCK", block)
        assert list(formats.items(tmp_path / "c.json")) == content
    monkeypatch.setattr(formats, "ITEM", 40)
    monkeypatch.setattr(formats, "BLOCK", 16)
    with pytest.raises(DataError, match=r"c\.json, entry \d+ cannot be read"):
        list(formats.items(tmp_path / "c.json"))


def pictures_of(samples: Samples | None) -> list[str]:
    assert samples is not None
    return paths(samples.pictures)


def test_own_pairs_are_found_and_divided(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MissingError, match=r"holds no captions; expected captions\.jsonl"):
        own.load(root=str(tmp_path))
    with pytest.raises(MissingError, match="nowhere is not there"):
        own.load(root=str(tmp_path / "nowhere"))
    for number in range(10):
        picture(tmp_path / f"{number}.png")
    (tmp_path / "captions.csv").write_text("\n".join(["path,caption", *(f"{n}.png,c{n}" for n in range(10))]))
    (tmp_path / "captions.txt").write_text("unread")
    data = own.load(root=str(tmp_path), test_share=0.3)
    assert (len(data.train), len(data.test)) == (7, 3)
    assert not set(pictures_of(data.train)) & set(pictures_of(data.test))
    assert pictures_of(own.load(root=str(tmp_path), test_share=0.3).test) == pictures_of(data.test)
    assert pictures_of(own.load(root=str(tmp_path), test_share=0.3, test_seed=1).test) != pictures_of(data.test)
    assert all(
        name == f"{texts[0][1:]}.png" for name, texts in zip(pictures_of(data.test), data.test.texts, strict=True)
    )
    assert f"reading {tmp_path}/captions.csv, not captions.txt" in caplog.messages
    assert data.name == tmp_path.name


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., CaptionedData]:
    def _listed(*lines: str) -> CaptionedData:
        for line in lines:
            picture(tmp_path / line.split(",")[0])
        (tmp_path / "captions.csv").write_text("\n".join(["path,caption,split", *lines]))
        return own.load(root=str(tmp_path))

    return _listed


def test_captions_in_training_are_drawn_the_first_or_all(listed: Callable[..., CaptionedData]) -> None:
    train = listed("a.png,a0,train", "b.png,b0,train", "a.png,a1,train", "c.png,c0,test").train
    assert shown(train, "drawn") is train
    assert shown(train, "first").texts == (("a0",), ("b0",))
    everything = shown(train, "all")
    assert everything.texts == (("a0",), ("a1",), ("b0",))
    assert pictures_of(everything) == ["a.png", "a.png", "b.png"]
    assert len({shown(train, how).fingerprint() for how in ("drawn", "first", "all")}) == 3


def test_own_pictures_that_are_equal_are_told(
    listed: Callable[..., CaptionedData], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    listed("a.png,a,train", "b.png,b,test")
    assert caplog.messages == []
    (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes())
    own.load(root=str(tmp_path))
    assert len(caplog.messages) == 1
    assert "1 test pictures are training pictures too, byte for byte" in caplog.messages[0]
