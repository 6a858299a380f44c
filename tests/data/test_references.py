from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image
from torchvision.transforms import PILToTensor

from everclip.config import build, checks, identity
from everclip.config.catalogue import option_names
from everclip.data import references
from everclip.data.drawing import shapes
from everclip.errors import ConfigError, DataError, MissingError
from everclip.types import Reference

Compose = Callable[..., DictConfig]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures in two folders, one of them deeper; another file beside them."""
    for number, name in enumerate(["sea_bird/a.png", "sea_bird/b.JPG", "old-house/deep/c.png", "old-house/d.png"]):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def names(reference: Reference) -> list[str]:
    return [path.name for path in reference.images.paths]  # type: ignore[attr-defined]  # FileImages


def test_drawn_classes_are_in_no_embedded_sequence(tmp_path: Path) -> None:
    reference = references.drawn_shapes(cache_dir=str(tmp_path), num_classes=3, templates=["a {}.", "{}"])
    drawn = [text.removeprefix("a ").removesuffix(".") for text in reference.texts]
    assert drawn == [*shapes.all_class_names()[120:123]] * 2
    assert len(reference.images) == 6


def test_drawn_pictures_are_those_of_their_classes_and_split(tmp_path: Path) -> None:
    reference = references.drawn_shapes(cache_dir=str(tmp_path), num_classes=2, per_class=2, seed=5)
    name = shapes.all_class_names()[121]
    expected = shapes.render(name, 2, seed=5, split=2, style=shapes.STYLES["cards"])
    drawn = reference.images.read([2, 3], PILToTensor()).images
    assert np.array_equal(drawn.permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize(("option", "value"), [("style", "oil"), ("num_classes", 381)])
def test_what_cannot_be_drawn_is_refused(option: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"reference\.{option}={value}"):
        references.drawn_shapes(cache_dir=str(tmp_path), **{option: value})


def test_a_folder_gives_all_pictures_in_it_and_texts_from_their_folders(pictures: Path) -> None:
    reference = references.folder(root=str(pictures))
    assert names(reference) == ["d.png", "c.png", "a.png", "b.JPG"]
    assert reference.texts == ("a photo of a old house.", "a photo of a deep.", "a photo of a sea bird.")


@pytest.mark.parametrize(
    ("file", "content", "column"),
    [
        pytest.param("c.txt", "a dog, running\n\n two cats \n", "caption", id="lines"),
        pytest.param("c.csv", 'id,caption\n1,"a dog, running"\n2, two cats\n3,\n', "caption", id="commas"),
        pytest.param("c.csv", "filepath\ttitle\nx.jpg\ta dog, running\ny.jpg\ttwo cats\n", "title", id="tabs"),
    ],
)
def test_captions_are_read_from_a_file(file: str, content: str, column: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    reference = references.folder(root=str(pictures), captions=str(tmp_path / file), column=column)
    assert reference.texts == ("a dog, running", "two cats")


def test_less_of_a_folder_is_spread_over_it(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("\n".join("abcdefg"))
    reference = references.folder(root=str(pictures), captions=str(tmp_path / "c.txt"), max_images=2, max_texts=3)
    assert names(reference) == ["d.png", "a.png"]
    assert reference.names == ("old house", "sea bird")
    assert reference.texts == ("a", "c", "e")


def test_what_is_missing_is_named(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"reference\.root=.*nowhere"):
        references.folder(root=str(tmp_path / "nowhere"))
    with pytest.raises(MissingError, match=r"reference\.captions=.*c\.txt"):
        references.folder(root=str(pictures), captions=str(tmp_path / "c.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no pictures"):
        references.folder(root=str(tmp_path / "empty"))
    (tmp_path / "c.csv").write_text("id,text\n1,a\n")
    with pytest.raises(DataError, match=r"no column caption; it has id, text; set reference\.column"):
        references.folder(root=str(pictures), captions=str(tmp_path / "c.csv"))
    (tmp_path / "c.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no captions"):
        references.folder(root=str(pictures), captions=str(tmp_path / "c.txt"))


def with_reference(compose: Compose, *words: str) -> DictConfig:
    """A configuration whose method asks for the reference."""
    composed = compose(*words)
    with open_dict(composed):
        composed.method = OmegaConf.create({"_target_": f"{__name__}.Asking", "reference": "${reference}"})
    return composed


class Asking:
    """Stands for a method that asks for the reference."""

    def __init__(self, backbone: object, *, reference: Reference) -> None:
        self.reference = reference


def test_none_has_nothing() -> None:
    reference = references.none()
    assert (len(reference.images), reference.texts, reference.names) == (0, (), ())


@pytest.mark.parametrize("name", option_names("reference"))
def test_every_option_fits_its_builder(name: str, compose: Compose) -> None:
    composed = with_reference(compose, f"reference={name}", *(["reference.root=x"] if name == "folder" else []))
    checks.check_values(composed)
    checks.check_group("method", composed.method)


def test_a_method_that_asks_gets_the_reference(compose: Compose) -> None:
    composed = with_reference(compose, "reference.num_classes=2")
    built = build.build("method", composed.method, object())
    assert isinstance(built.reference, Reference)
    assert len(built.reference.images) == 4


def test_wrong_settings_of_a_reference_are_refused(compose: Compose) -> None:
    with pytest.raises(ConfigError, match=r"method\.reference\.per_class=0"):
        checks.check_group("method", with_reference(compose, "reference.per_class=0").method)
    with pytest.raises(ConfigError, match=r"reference\.root is required"):
        checks.check_values(compose("reference=folder"))


def test_the_digest_covers_the_reference_only_where_it_is_used(compose: Compose) -> None:
    unused = {identity.digest(compose(f"reference.seed={seed}")) for seed in (0, 1)}
    used = {identity.digest(with_reference(compose, f"reference.seed={seed}")) for seed in (0, 1)}
    assert (len(unused), len(used)) == (1, 2)
