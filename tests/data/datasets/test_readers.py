"""Every reader on a tiny copy in the publisher's layout: labels, counts, names, order."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
import torchvision.datasets as theirs
from torchvision.transforms import PILToTensor

from everclip.data.datasets import imagenet100
from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.imagenet_folders import names_of, wnids
from everclip.data.datasets.spec import keys, spec
from everclip.data.images import FileImages
from everclip.errors import DataError
from everclip.types import Samples
from tests.data.datasets import replicas


def load(key: str, root: Path, split: str | None = None) -> LabelledImages:
    data: LabelledImages = import_module(f"everclip.data.datasets.{key}").load(
        root=str(root), **({} if split is None else {"split": split})
    )
    return data


def items(images: Samples | None, folder: Path) -> list[tuple[str, int]]:
    assert isinstance(images, FileImages)
    files = [path.relative_to(folder).as_posix() for path in images.paths]
    return list(zip(files, images.labels.tolist(), strict=True))


@pytest.mark.parametrize("key", sorted(replicas.COOP))
def test_coops_split_file_is_read_as_it_is(key: str, tmp_path: Path) -> None:
    replicas.coop(tmp_path, key)
    data = load(key, tmp_path, "coop")
    folder = tmp_path / replicas.COOP[key][0] / replicas.COOP[key][1]
    assert data.name == key
    assert data.names == ("ape", "brown bear", "cat")
    assert items(data.train, folder) == [("b/2.jpg", 1), ("a/1.jpg", 0), ("c/1.jpg", 2), ("b/1.jpg", 1)]
    assert items(data.val, folder) == [("a/2.jpg", 0)]
    assert items(data.test, folder) == [("c/2.jpg", 2), ("a/3.jpg", 0)]
    picture = data.train.read([0], PILToTensor()).images
    assert abs(picture.float().mean().item() - 40) < 2  # the fifth file in the alphabet


# key: torchvision's folder, then training and test set as MTIL builds them from torchvision (None: 80/20 of one set)
Theirs = Callable[[Path], object]
MTIL: dict[str, tuple[str | None, Theirs, Theirs | None]] = {
    "caltech101": ("caltech101", lambda r: theirs.Caltech101(r), None),
    "dtd": ("dtd/dtd", lambda r: theirs.DTD(r, split="train"), lambda r: theirs.DTD(r, split="test")),
    "eurosat": (None, lambda r: theirs.EuroSAT(r), None),
    "fgvc_aircraft": (
        "fgvc-aircraft-2013b/data",
        lambda r: theirs.FGVCAircraft(r, split="train"),
        lambda r: theirs.FGVCAircraft(r, split="test"),
    ),
    "flowers102": (
        "flowers-102",
        lambda r: theirs.Flowers102(r, split="train"),
        lambda r: theirs.Flowers102(r, split="test"),
    ),
    "food101": (None, lambda r: theirs.Food101(r, split="train"), lambda r: theirs.Food101(r, split="test")),
    "oxford_pets": (
        "oxford-iiit-pet",
        lambda r: theirs.OxfordIIITPet(r, split="trainval"),
        lambda r: theirs.OxfordIIITPet(r, split="test"),
    ),
    "stanford_cars": (
        None,
        lambda r: theirs.StanfordCars(r, split="train"),
        lambda r: theirs.StanfordCars(r, split="test"),
    ),
}


def their_items(data: object) -> list[tuple[str, int]]:
    """Files and labels in the order of a data set of torchvision."""
    found: list[tuple[str, int]] = getattr(data, "samples", None) or getattr(data, "_samples", None) or []
    if isinstance(data, theirs.Caltech101):
        folder = Path(data.root, "101_ObjectCategories")
        rows = zip(data.y, data.index, strict=True)
        found = [(str(folder / data.categories[y] / f"image_{number:04d}.jpg"), y) for y, number in rows]
    if not found:
        files = getattr(data, "_image_files", None) or data._images  # type: ignore[attr-defined]  # of Pets
        found = list(zip(map(str, files), map(int, data._labels), strict=True))  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("key", sorted(MTIL))
def test_mtil_is_what_zscl_builds_from_torchvision(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, build_train, build_test = MTIL[key]
    getattr(replicas, key)(tmp_path, **({"folder": folder} if folder else {}))
    monkeypatch.setattr(theirs.Flowers102, "_check_integrity", lambda self: True)  # checksums of the real lists
    train = their_items(build_train(tmp_path))
    if build_test is None:
        cut = int(0.8 * len(train))
        generator = torch.Generator().manual_seed(42)
        parts = torch.utils.data.random_split(train, [cut, len(train) - cut], generator=generator)  # type: ignore[arg-type]
        train, test = (list(part) for part in parts)
    else:
        test = their_items(build_test(tmp_path))
    data = load(key, tmp_path, "mtil")
    root = tmp_path.resolve()
    assert items(data.train, tmp_path) == [(str(Path(f).relative_to(root)), label) for f, label in train]
    assert items(data.test, tmp_path) == [(str(Path(f).relative_to(root)), label) for f, label in test]
    assert data.val is None
    assert data.templates == spec(key).splits["mtil"].templates


def test_mtil_names(tmp_path: Path) -> None:
    for key in ("caltech101", "dtd", "eurosat", "fgvc_aircraft", "flowers102", "food101", "oxford_pets"):
        getattr(replicas, key)(tmp_path)
    replicas.stanford_cars(tmp_path)
    names = {key: load(key, tmp_path, "mtil").names for key in MTIL}
    assert names["caltech101"][:5] == ("off-center face", "centered face", "leopard", "motorbike", "accordion")
    assert names["dtd"] == ("banded", "zigzagged")
    assert names["eurosat"][2] == "brushland or shrubland"
    assert names["fgvc_aircraft"] == ("707-320", "A310", "Beechcraft 1900")
    assert (names["flowers102"][0], names["flowers102"][76]) == ("pink primrose", "passion flower")
    assert names["food101"] == ("apple pie", "churros")
    assert names["oxford_pets"] == ("Abyssinian", "American Bulldog", "Basset Hound")
    assert names["stanford_cars"] == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")


def test_sun397_is_split_in_sorted_order(tmp_path: Path) -> None:
    replicas.sun397(tmp_path)
    data = load("sun397", tmp_path, "mtil")
    ordered = [("abbey/sun_a", 0), ("abbey/sun_b", 0), ("abbey/sun_c", 0)]
    ordered += [("apartment_building/outdoor/sun_d", 1), ("apartment_building/outdoor/sun_e", 1)]
    generator = torch.Generator().manual_seed(42)
    train, test = torch.utils.data.random_split(ordered, [4, 1], generator=generator)  # type: ignore[arg-type]
    for part, expected in ((data.train, train), (data.test, test)):
        assert items(part, tmp_path / "sun397/SUN397/a") == [(f"{file}.jpg", label) for file, label in expected]
    assert data.names == ("abbey", "apartment building/outdoor")


def test_fgvc_aircraft_of_coop_has_validation_pictures(tmp_path: Path) -> None:
    replicas.fgvc_aircraft(tmp_path)
    data = load("fgvc_aircraft", tmp_path, "coop")
    assert items(data.train, tmp_path / "fgvc_aircraft/images") == [("0034309.jpg", 0), ("1025794.jpg", 2)]
    assert items(data.val, tmp_path / "fgvc_aircraft/images") == [("0056978.jpg", 0)]


def test_cifar10_joins_its_batches_in_order(tmp_path: Path) -> None:
    replicas.cifar10(tmp_path)
    data = load("cifar10", tmp_path)
    assert data.names[0] == "airplane"
    assert data.train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert data.test.labels.tolist() == [5, 4]
    assert data.train.read([5], PILToTensor()).images[0, :, 31, 7].tolist() == [2, 100, 2]


def test_cifar100_splits_differ_in_texts_only(tmp_path: Path) -> None:
    replicas.cifar100(tmp_path)
    official, mtil, raw = (load("cifar100", tmp_path, split) for split in ("official", "mtil", "continual_clip"))
    assert official.names[98:] == mtil.names[98:] == ("class 98", "worm")
    assert (raw.names[98:], raw.templates) == (("class_98", "worm"), ("a bad photo of a {}.",))
    assert official.train.labels.tolist() == mtil.train.labels.tolist() == raw.train.labels.tolist() == [19, 99, 0]
    assert official.train_keys == ("0", "1", "2")
    assert official.templates == ("a photo of a {}.",)
    assert (len(mtil.templates), mtil.templates[1]) == (18, "a blurry photo of a {}.")


@pytest.mark.parametrize("zipped", [False, True], ids=["raw", "gzipped"])
def test_mnist_equals_torchvisions(zipped: bool, tmp_path: Path) -> None:
    replicas.mnist(tmp_path, zipped)
    data = load("mnist", tmp_path)
    replicas.mnist(tmp_path)
    for part, train in ((data.train, True), (data.test, False)):
        reference = theirs.MNIST(tmp_path, train=train)
        assert part.labels.tolist() == reference.targets.tolist()
        pixels = part.read(range(len(part)), PILToTensor()).images
        assert torch.equal(pixels, reference.data[:, None].expand(-1, 3, -1, -1))
    assert data.names[3] == "3 - three"


def test_cub200(tmp_path: Path) -> None:
    replicas.cub200(tmp_path)
    data = load("cub200", tmp_path)
    images = tmp_path / "CUB_200_2011/images"
    assert data.names == ("Black footed Albatross", "Laysan Albatross")
    assert items(data.train, images) == [("001.Black_footed_Albatross/b.jpg", 0), ("002.Laysan_Albatross/a.jpg", 1)]
    assert items(data.test, images) == [("001.Black_footed_Albatross/a.jpg", 0), ("002.Laysan_Albatross/c d.jpg", 1)]


def test_tiny_imagenet_keeps_the_publishers_class_order(tmp_path: Path) -> None:
    replicas.tiny_imagenet(tmp_path)
    data = load("tiny_imagenet", tmp_path)
    folder = tmp_path / "tiny-imagenet-200"
    assert data.names == ("Egyptian Mau", "fishing casting reel", "goldfish")
    assert items(data.train, folder)[3:6] == [
        (f"train/n04067472/images/n04067472_{i}.JPEG", 1) for i in ("0", "1", "10")
    ]
    assert items(data.test, folder) == [("val/images/val_0.JPEG", 2), ("val/images/val_1.JPEG", 0)]


def test_imagenet_and_its_subsets(tmp_path: Path) -> None:
    replicas.imagenet(tmp_path)
    data = load("imagenet", tmp_path)
    assert (len(data.names), data.names[0], data.names[999]) == (1000, "tench", "toilet paper")
    assert items(data.train, tmp_path / "imagenet/images/train")[:3] == [
        ("n01440764/n01440764_10026.JPEG", 0), ("n01440764/n01440764_18.JPEG", 0),
        ("n01443537/n01443537_10026.JPEG", 1),
    ]  # fmt: skip
    assert data.test.labels.tolist() == list(range(1000))
    drawn, first = (load("imagenet100", tmp_path, split) for split in ("seed1993", "first"))
    assert first.names == data.names[:100]
    # LUCIR's draw equals the head of the well-known permutation; its folders are then numbered in sorted order.
    chosen = np.sort(np.random.RandomState(1993).permutation(1000)[:100])
    assert drawn.names == tuple(data.names[i] for i in chosen)
    assert (len(drawn.train), drawn.test.labels.tolist()) == (200, list(range(100)))


def test_imagenet100_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    for wnid in imagenet100.subset("seed1993"):
        for part in ("train", "val"):
            replicas.put(tmp_path / "imagenet100" / part / wnid / "1.JPEG", replicas.jpeg(0))
    assert len(load("imagenet100", tmp_path).train) == 100


def test_imagenet_r_is_split_by_the_published_list(tmp_path: Path) -> None:
    replicas.imagenet_r(tmp_path)
    data = load("imagenet_r", tmp_path)
    assert (len(data.names), data.names[0], data.names[-1]) == (200, "goldfish", "acorn")
    assert items(data.train, tmp_path / "imagenet-r")[:3] == [
        ("n01443537/aa_0.jpg", 0), ("n01443537/zz_0.jpg", 0), ("n01484850/aa_0.jpg", 1),
    ]  # fmt: skip
    assert len(data.test) == len(set(items(data.test, tmp_path))) == 6000
    assert ("n01443537/cartoon_10.jpg", 0) in items(data.test, tmp_path / "imagenet-r")
    assert np.bincount(data.test.labels).min() == 5
    # labels of the first pictures of GT-RIPL/CODA-Prompt's lists
    coda = load("imagenet_r", tmp_path, "coda")
    published = dict(items(coda.test, tmp_path / "imagenet-r"))
    assert published.keys() == dict(items(data.test, tmp_path / "imagenet-r")).keys()
    files = ("n01910747/tattoo_75.jpg", "n02437616/painting_1.jpg", "n03773504/videogame_20.jpg")
    assert [published[file] for file in files] == [153, 76, 184]


def test_relatives_of_imagenet_have_its_classes_or_some_of_them(tmp_path: Path) -> None:
    every, some = wnids(), replicas.wnids_of("imagenet_a")
    replicas.imagenet_v2(tmp_path)
    replicas.imagenet_sketch(tmp_path)
    replicas.imagenet_a(tmp_path)
    replicas.imagenet_r(tmp_path, "imagenet-rendition/imagenet-r")
    v2, sketch, adversarial = (load(f"imagenet_{key}", tmp_path) for key in ("v2", "sketch", "a"))
    renditions = load("imagenet_r", tmp_path, "test_only")
    v2_folder, sketch_folder = tmp_path / "imagenetv2", tmp_path / "imagenet-sketch/images"
    name = "imagenetv2-matched-frequency-format-val/{}/{}.jpeg"
    assert items(v2.test, v2_folder)[18:22] == [(name.format(n, s), n) for n in (9, 10) for s in "ab"]  # not 9, 90, 900
    assert items(sketch.test, sketch_folder) == [(f"{wnid}/sketch_0.JPEG", n) for n, wnid in enumerate(every)]
    assert v2.names == sketch.names == names_of(every)
    assert adversarial.test.labels.tolist() == list(range(200))
    assert adversarial.names == names_of(some)
    assert renditions.names == names_of(replicas.wnids_of("imagenet_r"))
    assert len(renditions.test) == 6201
    assert [len(data.train) for data in (v2, sketch, adversarial, renditions)] == [0] * 4
    (tmp_path / "imagenet-adversarial/imagenet-a" / every[0]).mkdir()
    with pytest.raises(DataError, match=r"imagenet-a has folders of 201 classes of ImageNet; ImageNet-A has 200"):
        load("imagenet_a", tmp_path)


def test_every_data_set_has_a_reader_and_every_split_a_template() -> None:
    assert len(keys()) == 41
    for key in keys():
        known = spec(key)
        load_ = import_module(f"everclip.data.datasets.{known.reader or key}").load
        if not known.reader:  # one that reads several takes their splits as they come
            assert get_args(get_type_hints(load_)["split"]) == tuple(known.splits)
            assert inspect.signature(load_).parameters["split"].default == next(iter(known.splits))
        for split in known.splits.values():
            assert all(template.count("{}") == 1 for template in split.templates)
            assert split.names == () or len(split.names) == split.classes
