"""Tiny copies of published data sets in their publishers' layouts and file formats.

Every writer fills `root` and returns nothing: what a reader must make of it stands in the tests.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from everclip.data.datasets.base import split_lines

# key: folder and pictures of CoOp's DATASETS.md, name of its split file
COOP = {
    "caltech101": ("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "dtd": ("dtd", "images", "split_zhou_DescribableTextures.json"),
    "eurosat": ("eurosat", "2750", "split_zhou_EuroSAT.json"),
    "flowers102": ("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json"),
    "food101": ("food-101", "images", "split_zhou_Food101.json"),
    "oxford_pets": ("oxford_pets", "images", "split_zhou_OxfordPets.json"),
    "stanford_cars": ("stanford_cars", ".", "split_zhou_StanfordCars.json"),
    "sun397": ("sun397", "SUN397", "split_zhou_SUN397.json"),
    "ucf101": ("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json"),
}


@cache
def jpeg(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (grey, grey, grey)).save(buffer, "JPEG")
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def put_pictures(folder: Path, files: Iterable[str]) -> None:
    for number, file in enumerate(files):
        put(folder / file, jpeg(10 * number % 250))


def coop(root: Path, key: str) -> Path:
    """Three classes out of order in the file; returns the split file."""
    folder, pictures, file = COOP[key]
    content: dict[str, list[list[Any]]] = {
        "train": [
            ["b/2.jpg", 1, "brown_bear"], ["a/1.jpg", 0, "ape"], ["c/1.jpg", 2, "cat"], ["b/1.jpg", 1, "brown_bear"],
        ],
        "val": [["a/2.jpg", 0, "ape"]],
        "test": [["c/2.jpg", 2, "cat"], ["a/3.jpg", 0, "ape"]],
    }  # fmt: skip
    put_pictures(root / folder / pictures, sorted(item[0] for items in content.values() for item in items))
    for needed in {"stanford_cars": ("cars_train", "cars_test")}.get(key, ()):
        (root / folder / needed).mkdir()
    put(root / folder / file, json.dumps(content))
    return root / folder / file


def cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = np.full((2, 3072), number, np.uint8)
        data[:, 1024:2048] = 100  # the green plane
        content = {"data": data, "labels": [number, 9 - number], "batch_label": name}
        put(folder / name, pickle.dumps(content, protocol=2))
    put(folder / "batches.meta", pickle.dumps({"label_names": names}, protocol=2))


def cifar100(root: Path, labels: Iterable[int] = (19, 99, 0)) -> None:
    folder = root / "cifar-100-python"
    for split, own in (("train", list(labels)), ("test", [1, 1])):
        content = {"data": np.zeros((len(own), 3072), np.uint8), "fine_labels": own, "coarse_labels": own}
        put(folder / split, pickle.dumps(content, protocol=2))
    names = [f"class_{i}" for i in range(99)] + ["worm"]
    put(folder / "meta", pickle.dumps({"fine_label_names": names}, protocol=2))


def mnist(root: Path, zipped: bool = False) -> None:
    folder = root / "MNIST" / "raw"
    for part, labels in (("train", [7, 2, 1]), ("t10k", [9, 0])):
        pixels = np.arange(len(labels) * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(-1, 28, 28)
        pictures = bytes([0, 0, 8, 3]) + np.array(pixels.shape, ">u4").tobytes() + pixels.tobytes()
        numbers = bytes([0, 0, 8, 1]) + np.array([len(labels)], ">u4").tobytes() + bytes(labels)
        for kind, content in (("images-idx3", pictures), ("labels-idx1", numbers)):
            name = f"{part}-{kind}-ubyte"
            put(folder / (f"{name}.gz" if zipped else name), gzip.compress(content) if zipped else content)


def cub200(root: Path) -> None:
    folder = root / "CUB_200_2011"
    images = {
        "001.Black_footed_Albatross/a.jpg": (1, 0), "001.Black_footed_Albatross/b.jpg": (1, 1),
        "002.Laysan_Albatross/a.jpg": (2, 1), "002.Laysan_Albatross/c d.jpg": (2, 0),
    }  # fmt: skip
    put_pictures(folder / "images", images)
    lists = {
        "classes.txt": ["001.Black_footed_Albatross", "002.Laysan_Albatross"],
        "images.txt": list(images),
        "image_class_labels.txt": [str(label) for label, _ in images.values()],
        "train_test_split.txt": [str(flag) for _, flag in images.values()],
    }
    for name, values in lists.items():
        put(folder / name, "".join(f"{i} {value}\n" for i, value in enumerate(values, start=1)))


def tiny_imagenet(root: Path) -> None:
    folder = root / "tiny-imagenet-200"
    wnids = ["n02124075", "n04067472", "n01443537"]
    put(folder / "wnids.txt", "\n".join(wnids))
    for wnid in wnids:
        put_pictures(folder / "train" / wnid / "images", [f"{wnid}_{i}.JPEG" for i in (0, 1, 10)])
        put(folder / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
    put_pictures(folder / "val" / "images", ["val_0.JPEG", "val_1.JPEG"])
    put(
        folder / "val" / "val_annotations.txt",
        "val_0.JPEG\tn01443537\t0\t32\t44\t62\nval_1.JPEG\tn02124075\t5\t5\t9\t9\n",
    )


def imagenet(root: Path, folder: str = "imagenet/images") -> None:
    """Two training pictures and one validation picture of every class."""
    for wnid in split_lines("imagenet", "wnids.txt"):
        put(root / folder / "train" / wnid / f"{wnid}_10026.JPEG", jpeg(0))
        put(root / folder / "train" / wnid / f"{wnid}_18.JPEG", jpeg(0))
        put(root / folder / "val" / wnid / "ILSVRC2012_val_00000293.JPEG", jpeg(0))


def imagenet_r(root: Path, folder: str = "imagenet-r") -> None:
    """All listed test pictures and one or two others of every class."""
    for number, line in enumerate(sorted(split_lines("imagenet_r", "test.txt"))):
        wnid, *stems = line.split()
        others = ["zz_0", "aa_0"] if number == 0 else ["aa_0"]
        for stem in (*stems, *others):
            put(root / folder / wnid / f"{stem}.jpg", jpeg(0))
    put(root / folder / "README.txt", "classes of ImageNet-R")


def wnids_of(relative: str) -> list[str]:
    """The classes of ImageNet that `imagenet_a` or `imagenet_r` has, as timm lists them."""
    return files("timm.data").joinpath("_info", f"{relative}_synsets.txt").read_text().split()


def imagenet_v2(root: Path, folder: str = "imagenetv2/imagenetv2-matched-frequency-format-val") -> None:
    """Two pictures of every class, in folders named by its number."""
    for label in range(1000):
        for name in ("b.jpeg", "a.jpeg"):
            put(root / folder / str(label) / name, jpeg(0))


def imagenet_sketch(root: Path, folder: str = "imagenet-sketch/images") -> None:
    """One picture of every class."""
    for wnid in split_lines("imagenet", "wnids.txt"):
        put(root / folder / wnid / "sketch_0.JPEG", jpeg(0))


def imagenet_a(root: Path, folder: str = "imagenet-adversarial/imagenet-a") -> None:
    """One picture of every class."""
    for wnid in wnids_of("imagenet_a"):
        put(root / folder / wnid / "0.000116_digital clock _ digital clock_0.865662.jpg", jpeg(0))
    put(root / folder / "README.txt", "classes of ImageNet-A")


def fgvc_aircraft(root: Path, folder: str = "fgvc_aircraft") -> None:
    lists = {
        "train": ["0034309 707-320", "1025794 Beechcraft 1900"],
        "val": ["0056978 707-320"],
        "test": ["1514522 Beechcraft 1900", "0062781 A310"],
    }
    put(root / folder / "variants.txt", "707-320\nA310\nBeechcraft 1900\n")
    for part, lines in lists.items():
        put(root / folder / f"images_variant_{part}.txt", "\n".join(lines) + "\n")
        put_pictures(root / folder / "images", [f"{line.split()[0]}.jpg" for line in lines])


def caltech101(root: Path, folder: str = "caltech-101") -> None:
    """101 classes; the first five in the alphabet of the publisher (capitals first)."""
    classes = ["Faces", "Faces_easy", "Leopards", "Motorbikes", "accordion", *(f"b{i:02d}" for i in range(96))]
    for name in ("BACKGROUND_Google", *reversed(classes)):
        put_pictures(root / folder / "101_ObjectCategories" / name, ["image_0001.jpg", "image_0002.jpg"])


def eurosat(root: Path) -> None:
    classes = (
        "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop",
        "Residential", "River", "SeaLake",
    )  # fmt: skip
    for name in classes:
        put_pictures(root / "eurosat" / "2750" / name, [f"{name}_{i}.jpg" for i in (1, 2, 10)])


def dtd(root: Path, folder: str = "dtd") -> None:
    lists = {"train1": ["zigzagged/z_1.jpg", "banded/b_1.jpg"], "test1": ["banded/b_2.jpg", "zigzagged/z_2.jpg"]}
    for name, lines in lists.items():
        put(root / folder / "labels" / f"{name}.txt", "\n".join(lines) + "\n")
        put_pictures(root / folder / "images", lines)


def flowers102(root: Path, folder: str = "oxford_flowers") -> None:
    put_pictures(root / folder / "jpg", [f"image_{i:05d}.jpg" for i in range(1, 6)])
    savemat(root / folder / "imagelabels.mat", {"labels": np.array([[77, 1, 102, 77, 1]], np.uint8)})
    sets = {"trnid": np.array([[5, 1]]), "valid": np.array([[3]]), "tstid": np.array([[4, 2]])}
    savemat(root / folder / "setid.mat", sets)


def food101(root: Path) -> None:
    lists = {
        "train": {"churros": ["churros/1004234", "churros/101"], "apple_pie": ["apple_pie/1005649"]},
        "test": {"apple_pie": ["apple_pie/1011328"], "churros": ["churros/102"]},
    }
    for part, content in lists.items():
        put(root / "food-101" / "meta" / f"{part}.json", json.dumps(content))
        put_pictures(root / "food-101" / "images", [f"{file}.jpg" for files in content.values() for file in files])


def oxford_pets(root: Path, folder: str = "oxford_pets") -> None:
    lists = {
        "trainval": ["Abyssinian_100 1 1 1", "american_bulldog_100 2 2 1", "basset_hound_3 3 2 2"],
        "test": ["basset_hound_1 3 2 2", "Abyssinian_201 1 1 1"],
    }
    for part, lines in lists.items():
        put(root / folder / "annotations" / f"{part}.txt", "\n".join(lines) + "\n")
        put_pictures(root / folder / "images", [f"{line.split()[0]}.jpg" for line in lines])


def stanford_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    put(folder / "devkit" / "README.txt", "")
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    boxes = [("bbox_x1", "O"), ("bbox_y1", "O"), ("bbox_x2", "O"), ("bbox_y2", "O")]
    for file, pictures, rows in (
        ("devkit/cars_train_annos.mat", "cars_train", [(2, "00001.jpg"), (1, "00002.jpg"), (2, "00003.jpg")]),
        ("cars_test_annos_withlabels.mat", "cars_test", [(1, "00001.jpg"), (2, "00002.jpg")]),
    ):
        annotations = np.array(
            [(39, 116, 569, 375, label, name) for label, name in rows],
            dtype=[*boxes, ("class", "O"), ("fname", "O")],
        )
        savemat(folder / file, {"annotations": annotations})
        put_pictures(folder / pictures, [name for _, name in rows])


def sun397(root: Path, folder: str = "sun397") -> None:
    """Two scenes, one of them with an inner folder; five pictures."""
    files = ["a/abbey/sun_b.jpg", "a/abbey/sun_a.jpg", "a/abbey/sun_c.jpg"]
    files += ["a/apartment_building/outdoor/sun_e.jpg", "a/apartment_building/outdoor/sun_d.jpg"]
    put_pictures(root / folder / "SUN397", files)
    put(root / folder / "SUN397" / "ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n")
