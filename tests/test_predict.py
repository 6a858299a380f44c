"""everclip-predict: what it says of files is what the run's own evaluation saw in them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from unittest.mock import patch

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms.functional import to_pil_image

import everclip
from everclip.backbones.open_clip import OpenClip
from everclip.commands.load import AdaptedModel, load_checkpoint
from everclip.commands.predict import files_in, form_of, main, predictions
from everclip.config.build import build
from everclip.data.images import PICTURES
from everclip.errors import MissingError, NotFiniteError
from everclip.methods.base import Method
from everclip.runs.folder import RunFolder
from everclip.types import ClassSet
from tests.correct import correct

Run = Callable[..., RunFolder]
RUN = ("train.max_steps=2",)
CLIPS = {"clips": {
    "_target_": "everclip.data.video.form.Clips", "views": 2, "cache": "disk", "cache_dir": "/nowhere",
    "sampling": {"_target_": "everclip.data.video.sampling.Segment", "frames": 2},
}}  # fmt: skip


@pytest.fixture
def stored(finished: Run) -> RunFolder:
    """A run; before `capsys`, which would hear of it otherwise."""
    return finished(*RUN)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three pictures and a list."""
    (tmp_path / "photos").mkdir()
    for name, colour in (("b.png", "red"), ("a.jpg", "blue"), ("c.PNG", "green")):
        Image.new("RGB", (40, 31), colour).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "list.txt").write_text("no picture")
    return tmp_path / "photos"


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_pictures_of_a_task_are_classified_as_its_run_did(
    stored: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    sequence = build("sequence", OmegaConf.load(stored.path / "config.yaml").sequence)
    record, model = stored.read_sessions()[1], everclip.load(stored.path, 1)
    row = record["tasks"][0]
    samples = sequence.tasks[row["task"]].samples
    (tmp_path / "task").mkdir()
    for number, image in enumerate(samples.read(range(len(samples)), model.backbone.resize).images):
        to_pil_image(image).save(tmp_path / "task" / f"{number:03d}.png")
    words = [str(stored.path), str(tmp_path / "task"), "--session", "1", "--top", "100", "--csv", str(out)]
    assert main([*words, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    found = rows(out)
    assert len(found) == len(samples) * len(model.classes)  # no more than were seen up to session 1
    first = [line["class"] for line in found if line["rank"] == "1"]
    names = [model.classes.names[column] for column in model.classes.columns(torch.from_numpy(samples.labels))]
    assert sum(a == b for a, b in zip(first, names, strict=True)) == correct(row)
    own = [float(line["probability"]) for line in found if line["file"].endswith("000.png")]
    assert own == sorted(own, reverse=True)
    assert sum(own) == pytest.approx(1, abs=1e-5)


def test_a_table_has_files_as_named_and_those_of_folders_in_order(
    stored: RunFolder, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(stored.path), str(photos / "b.png"), str(photos), "--top", "2", "--device", "cpu"]) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["file", "class", "probability", "2", "probability"]
    assert [Path(line.split("|")[1].strip()).name for line in lines] == ["b.png", "a.jpg", "b.png", "c.PNG"]
    assert lines[0] == lines[2]
    names = everclip.load(stored.path).classes.names
    assert all(line.split("|")[2].strip() in names for line in lines)


def test_what_cannot_be_is_told(
    stored: RunFolder, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = stored.path, tmp_path / "out.csv"
    (photos / "bad.jpg").write_text("no picture")
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([tmp_path, photos], f"{tmp_path} holds no checkpoint\n"),
        ([run, photos, "--session", "7"], "holds no checkpoint of session 7; stored are 0, 1, 2"),
        ([run, photos, photos / "bad.jpg", "--csv", out], f"{photos / 'bad.jpg'} cannot be read as a picture"),
        ([tmp_path / "nowhere", photos], f"{tmp_path / 'nowhere'}: no such folder; give the folder of a run"),
        ([run, photos / "x.jpg"], f"{photos / 'x.jpg'} is not there; give pictures or folders of pictures"),
        ([run, tmp_path / "empty"], f"{tmp_path / 'empty'} holds no pictures (.jpg"),
        ([run, photos / "a.jpg", "--device", "toaster"], "--device toaster: "),
    ):
        assert main([str(word) for word in words]) == 2
        told = capsys.readouterr()
        assert message in told.err
        assert (told.out, len(told.err.splitlines())) == ("", 1)
    assert not out.exists()


def test_unreadable_files_of_a_folder_are_left_out(
    stored: RunFolder, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = len(list(photos.iterdir()))
    (photos / "bad.jpg").write_text("no picture")
    assert main([str(stored.path), str(photos), "--csv", str(photos / "out.csv"), "--top", "1"]) == 0
    assert f"left out: {photos / 'bad.jpg'} cannot be read as a picture" in capsys.readouterr().err
    assert 1 < len((photos / "out.csv").read_text().splitlines()) <= 1 + whole
    for file in photos.iterdir():
        if file.suffix != ".txt" and file.name != "bad.jpg":
            file.unlink()
    assert main([str(stored.path), str(photos)]) == 2
    assert "none of the pictures can be read" in capsys.readouterr().err


def test_a_run_without_classes_has_nothing_to_choose_from(
    stored: RunFolder, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_classes(*arguments: object, **keywords: object) -> AdaptedModel:
        model = load_checkpoint(*arguments, **keywords)  # type: ignore[arg-type]
        return AdaptedModel(model.method, ClassSet((), ()), model.facts)

    with patch("everclip.commands.load.load_checkpoint", without_classes):
        assert main([str(stored.path), str(photos), "--device", "cpu"]) == 2
    assert "has seen texts but no classes" in capsys.readouterr().err


def test_logits_that_are_not_finite_are_no_probabilities(tiny: Callable[[], OpenClip], photos: Path) -> None:
    model = AdaptedModel(Method(tiny()), ClassSet((0,), ("star",)), {})
    wrong = patch.object(Method, "classifier", lambda *_: lambda images: torch.full((len(images), 1), torch.inf))
    with wrong, pytest.raises(NotFiniteError, match=r"not finite for .*a\.jpg"):
        list(predictions(model, files_in(photos, PICTURES), PICTURES, 1))


def test_clips_are_read_as_the_sequence_reads_them(tiny: Callable[[], OpenClip], photos: Path) -> None:
    form = form_of(OmegaConf.create({"root": "clips", "dataset": CLIPS}))
    assert (form.title, form.num_frames) == ("clip", 2)
    copytree(photos, photos.parent / "clips" / "frames")  # of a clip that is a folder
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("blue", "red", "green")]
    frames[0].save(photos.parent / "clips" / "moving.gif", save_all=True, append_images=frames[1:])
    files = files_in(photos.parent / "clips", form)
    assert [file.name for file in files] == ["frames", "moving.gif"]
    assert files_in(photos, form) == [photos]
    model = AdaptedModel(Method(tiny()), ClassSet((4, 2), ("red star", "blue circle")), {})
    for found, path in zip(predictions(model, files, form, 2), files, strict=True):
        views = form.read(path, model.backbone.resize, None, 0)
        assert views.shape[:2] == (2, 2)
        with torch.no_grad():
            each = model.method.logits(model.backbone.normalize(views), model.classes).softmax(dim=-1)
        chances = dict(zip(model.classes.names, each.mean(dim=0).tolist(), strict=True))
        assert dict(found.classes) == pytest.approx(chances, abs=1e-5)


def test_a_folder_of_pictures_is_no_clip_where_a_sequence_has_pictures(photos: Path) -> None:
    assert form_of(OmegaConf.create({"root": "photos", "num_clips": 3})) is PICTURES
    with pytest.raises(MissingError, match="folders in it are not opened"):
        files_in(photos.parent, PICTURES)
