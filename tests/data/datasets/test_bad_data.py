"""Data sets that are missing, incomplete or damaged: one error that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from everclip.data.datasets.spec import keys, spec
from everclip.errors import DataError, EverclipError, MissingError
from tests.data.datasets import replicas
from tests.data.datasets.test_readers import load

CASES = [pytest.param(key, split, id=f"{key}-{split}") for key in keys() for split in spec(key).splits]


@pytest.mark.parametrize(("key", "split"), CASES)
def test_a_missing_data_set_says_where_it_belongs_and_what_to_do(key: str, split: str, tmp_path: Path) -> None:
    with pytest.raises(MissingError) as error:
        spec(key).load(tmp_path, split)
    first = tmp_path / spec(key).folders[0] / (*spec(key).needs, *spec(key).splits[split].files)[0]
    assert str(error.value).startswith(f"{spec(key).title}: {first} is not there; everclip-data prepare {key} ")


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


# id: data set and split, file that is damaged, how, the error's kind and text
BAD: dict[str, tuple[str, str, str, Callable[[bytes], bytes], type[EverclipError], str]] = {
    "split-file-of-another-data-set": (
        "dtd", "coop", "dtd/split_zhou_DescribableTextures.json",
        lambda c: c.replace(b"a/1.jpg", b"Abyssinian_100.jpg"), MissingError,
        r"Abyssinian_100\.jpg is not there, but split_zhou_DescribableTextures\.json names it; is that the list of",
    ),
    "truncated-json": (
        "dtd", "coop", "dtd/split_zhou_DescribableTextures.json", half, DataError,
        r"DescribableTextures\.json cannot be read as JSON",
    ),
    "json-without-parts": (
        "eurosat", "coop", "eurosat/split_zhou_EuroSAT.json", lambda c: b"[1, 2]", DataError,
        r"EuroSAT\.json is no split file of CoOp: expected train, val and test",
    ),
    "label-gap": (
        "eurosat", "coop", "eurosat/split_zhou_EuroSAT.json", lambda c: c.replace(b", 2, ", b", 7, "), DataError,
        r"EuroSAT\.json has the labels \[0, 1, 7\]",
    ),
    "two-names-for-a-label": (
        "ucf101", "coop", "ucf101/split_zhou_UCF101.json", lambda c: c.replace(b'0, "ape"', b'0, "monkey"', 1),
        DataError, r"UCF101\.json calls class 0 both 'monkey' and 'ape'",
    ),
    "unknown-class-in-a-list": (
        "fgvc_aircraft", "mtil", "fgvc_aircraft/images_variant_test.txt", lambda c: c + b"1 Concorde\n", DataError,
        r"images_variant_test\.txt, line 3: '1 Concorde' has not the published form",
    ),
    "line-cut-short": (
        "oxford_pets", "mtil", "oxford_pets/annotations/test.txt", lambda c: c[:-5], DataError,
        r"test\.txt, line 2: 'Abyssinian_201 1' has not the published form",
    ),
    "binary-instead-of-text": (
        "dtd", "mtil", "dtd/labels/train1.txt", lambda c: b"\xff\xfe\x00", DataError,
        r"train1\.txt cannot be read as a list",
    ),
    "list-with-a-missing-picture": (
        "cub200", "official", "CUB_200_2011/images.txt", lambda c: c.replace(b"c d.jpg", b"e.jpg"), MissingError,
        r"e\.jpg is not there, but image_class_labels\.txt names it",
    ),
    "lists-of-different-length": (
        "cub200", "official", "CUB_200_2011/train_test_split.txt", lambda c: c + b"5 1\n", DataError,
        r"CUB_200_2011: the lists name 4, 4 and 5 pictures",
    ),
    "label-out-of-range": (
        "cub200", "official", "CUB_200_2011/image_class_labels.txt", lambda c: c.replace(b"3 2\n", b"3 201\n"),
        DataError, r"image_class_labels\.txt has the label 200, but there are 2 classes",
    ),
    "truncated-mat": (
        "flowers102", "mtil", "oxford_flowers/setid.mat", half, DataError, r"setid\.mat cannot be read as a MATLAB",
    ),
    "mat-that-is-none": (
        "stanford_cars", "mtil", "stanford_cars/devkit/cars_meta.mat", lambda c: b"no matrix" * 40, DataError,
        r"cars_meta\.mat cannot be read as a MATLAB file",
    ),
    "truncated-pickle": (
        "cifar10", "official", "cifar-10-batches-py/data_batch_3", half, DataError,
        r"data_batch_3 cannot be read as a CIFAR file",
    ),
    "pickle-of-another-data-set": (
        "cifar100", "official", "cifar-100-python/train", lambda c: c.replace(b"fine_labels", b"good_labels"),
        DataError, r"train has no entry 'fine_labels'; is it a file of another data set\?",
    ),
    "truncated-idx": (
        "mnist", "mtil", "MNIST/raw/t10k-images-idx3-ubyte", lambda c: c[:-1], DataError,
        r"t10k-images-idx3-ubyte announces values of shape \[2, 28, 28\] but holds 1567 bytes",
    ),
    "empty-idx": (
        "mnist", "mtil", "MNIST/raw/train-labels-idx1-ubyte", lambda c: b"", DataError,
        r"train-labels-idx1-ubyte is no IDX file",
    ),
    "idx-label-out-of-range": (
        "mnist", "mtil", "MNIST/raw/train-labels-idx1-ubyte", lambda c: c[:-1] + b"\x0a", DataError,
        r"train-labels-idx1-ubyte has the label 10, but there are 10 classes",
    ),
    "foreign-wnid": (
        "tiny_imagenet", "official", "tiny-imagenet-200/wnids.txt", lambda c: c.replace(b"n01443537", b"n00000001"),
        DataError, r"wnids\.txt: 'n00000001' is no class of ImageNet",
    ),
    "food-list-without-classes": (
        "food101", "mtil", "food-101/meta/test.json", lambda c: b'["churros/102"]', DataError,
        r"test\.json must give a list of files for every class",
    ),
    "food-list-with-another-class": (
        "food101", "mtil", "food-101/meta/test.json", lambda c: b'{"sushi": ["sushi/1"]}', DataError,
        r"test\.json names the class 'sushi', which .*train\.json does not have",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("key", "split", "file", "damage", "kind", "message"), BAD.values(), ids=BAD.keys())
def test_damage_is_named(
    key: str, split: str, file: str, damage: Callable[[bytes], bytes], kind: type[EverclipError], message: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    if split == "coop":
        replicas.coop(tmp_path, key)
    else:
        getattr(replicas, key)(tmp_path)
    load(key, tmp_path, split)
    edit(tmp_path / file, damage)
    with pytest.raises(kind, match=message):
        load(key, tmp_path, split)


def test_the_public_test_list_of_cars_has_no_labels(tmp_path: Path) -> None:
    replicas.stanford_cars(tmp_path)
    rows = np.array([(1, "00001.jpg")], dtype=[("bbox_x1", "O"), ("fname", "O")])
    savemat(tmp_path / "stanford_cars" / "cars_test_annos_withlabels.mat", {"annotations": rows})
    with pytest.raises(DataError, match=r"cars_test_annos_withlabels\.mat names no file and class of each picture"):
        load("stanford_cars", tmp_path, "mtil")


def test_a_number_without_a_label(tmp_path: Path) -> None:
    replicas.flowers102(tmp_path)
    sets = {"trnid": np.array([[9, 1]]), "tstid": np.array([[2, 3]])}
    savemat(tmp_path / "oxford_flowers" / "setid.mat", sets)
    with pytest.raises(DataError, match=r"setid\.mat names picture 9, but .*imagelabels\.mat has 5 labels"):
        load("flowers102", tmp_path, "mtil")


def test_missing_class_folders_are_named(tmp_path: Path) -> None:
    replicas.eurosat(tmp_path)
    for path in (tmp_path / "eurosat/2750/River").iterdir():
        path.unlink()
    with pytest.raises(MissingError, match=r"2750/River holds no pictures"):
        load("eurosat", tmp_path, "mtil")
    (tmp_path / "eurosat/2750/River").rmdir()
    with pytest.raises(DataError, match=r"2750 has 9 class folders; EuroSAT has 10"):
        load("eurosat", tmp_path, "mtil")


def test_a_split_file_may_hold_numbers_as_texts(tmp_path: Path) -> None:
    path = replicas.coop(tmp_path, "dtd")
    content = {part: [[f, str(n), c] for f, n, c in rows] for part, rows in json.loads(path.read_bytes()).items()}
    path.write_text(json.dumps(content))
    assert load("dtd", tmp_path, "coop").train.labels.tolist() == [1, 0, 2, 1]
