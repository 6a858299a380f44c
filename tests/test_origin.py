"""Results follow their inputs: finished runs are compared with their data, weights and the files settings name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, open_dict
from PIL import Image

from everclip.backbones.open_clip import OpenClip
from everclip.commands import check, origin, run
from everclip.commands.sequences import make_sequence
from everclip.data.cache import CachedImages
from everclip.data.images import ConcatSamples, FileImages, Relabelled, Unlabelled
from everclip.data.masks import MaskedImages
from everclip.data.pairs import CaptionedImages
from everclip.errors import ConfigError
from everclip.runs import inputs
from everclip.runs.folder import RunFolder
from everclip.sweeps.launchers import unfinished
from everclip.sweeps.sweep import Job, Sweep
from everclip.types import Samples, SessionView
from tests.conftest import SMALL, compose_in

Compose = Callable[..., DictConfig]
Change = Callable[[Path], None]


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> tuple[Path, Callable[[bool], None]]:
    """A folder with the pictures, names and weights of a finished run, and its command (to run, or to check)."""
    top = tmp_path_factory.mktemp("origin")
    for number, name in enumerate(("train/ant", "train/bee", "test/ant", "test/bee")):
        for i in range(2):
            draw(top / "photos" / name / f"{i}.bmp", 2 * number + i)
    (top / "names.txt").write_text("an ant\na bee\n")
    torch.save(OpenClip(model="everclip-tiny", weights="embedded").model.state_dict(), top / "weights.pt")
    words = [
        "method=zero_shot", "sequence=folder", f"sequence.root={top}/photos", f"sequence.names={top}/names.txt",
        f"backbone.weights={top}/weights.pt", "trainer=cpu", "logger=none",
    ]  # fmt: skip

    composed = compose_in(top / "outputs", cache_dir, *words)
    hydra = composed.hydra
    with open_dict(composed):
        del composed["hydra"]

    def command(checked: bool) -> None:
        if checked:
            check.check(composed, hydra)
        else:
            run._run_or_report(composed, hydra, RunFolder(top / "outputs"))

    with patch("everclip.reporting.results.write_plots", return_value=[]):
        command(False)
    return top, command


def another_picture_of_the_same_size(top: Path) -> None:
    draw(top / "photos" / "train" / "bee" / "1.bmp", 100)


def one_more_picture(top: Path) -> None:
    draw(top / "photos" / "train" / "bee" / "2.bmp", 101)


def another_name(top: Path) -> None:
    (top / "names.txt").write_text("an ant\na fly\n")


def other_weights(top: Path) -> None:
    state = torch.load(top / "weights.pt", weights_only=True)
    state["logit_scale"] += 1
    torch.save(state, top / "weights.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(another_picture_of_the_same_size, "what the files .* hold changed .*train/bee", id="picture"),
        pytest.param(one_more_picture, "the task sequence's data changed .*train/bee", id="added"),
        pytest.param(another_name, r"the task sequence's data changed .*names\.txt", id="names"),
        pytest.param(other_weights, r"the backbone's weights changed .*weights\.pt", id="weights"),
    ],
)
def test_a_finished_run_of_other_data_or_weights_is_refused(
    made: tuple[Path, Callable[[bool], None]], change: Change, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    top, command = made
    shutil.copytree(top / "photos", top / "kept" / "photos")  # with the times
    for file in ("names.txt", "weights.pt"):
        shutil.copy2(top / file, top / "kept")
    sweep = Sweep(top, [Job(str(top / "outputs"), [])], str(top))
    assert unfinished(sweep) == []
    change(top)
    assert unfinished(sweep) == [0]
    for checked in (False, True) if change is another_picture_of_the_same_size else (False,):
        with pytest.raises(ConfigError, match=f"begun with other values: {message}.*restart=true"):
            command(checked)
    shutil.rmtree(top / "photos")
    for path in (top / "kept").iterdir():
        path.rename(top / path.name)
    (top / "kept").rmdir()
    assert unfinished(sweep) == []
    caplog.clear()
    command(False)
    assert "finished earlier" in caplog.text


def test_what_has_not_changed_is_seen_without_building_anything(
    made: tuple[Path, Callable[[bool], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    top, command = made
    looks: list[object] = []
    monkeypatch.setattr(origin, "confirm", lambda *arguments: looks.append(arguments))
    command(False)
    assert looks == []
    path = top / "photos" / "test" / "ant" / "0.bmp"
    path.write_bytes(path.read_bytes())
    command(False)
    assert len(looks) == 1


@pytest.mark.parametrize("gone", ["photos", "weights.pt"])
def test_a_result_outlives_its_data(
    made: tuple[Path, Callable[[bool], None]], gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    top, command = made
    (top / gone).rename(top / "elsewhere")
    command(False)
    (top / "elsewhere").rename(top / gone)
    assert f"cannot be compared with what it was made from: {'sequence.root' if gone == 'photos' else 'backbone'}" in (
        caplog.text
    )
    assert "finished earlier" in caplog.text


def test_places_change_with_what_lies_in_them(tmp_path: Path) -> None:
    for name in ("train/ant", "train/bee"):
        draw(tmp_path / name / "0.bmp", 0)
    known = inputs.stamped(inputs.places(tmp_path.rglob("*.bmp"), [tmp_path / "names.txt", tmp_path]))
    assert inputs.changed(known) == []
    (tmp_path / "train" / "cat").mkdir()
    assert inputs.changed(known) == [f"{tmp_path}/train"]
    (tmp_path / "names.txt").touch()
    assert inputs.changed(known) == [f"{tmp_path}/names.txt", str(tmp_path), f"{tmp_path}/train"]
    draw(tmp_path / "train" / "ant" / "0.bmp", 1)
    assert f"{tmp_path}/train/ant" in inputs.changed(known)


def test_a_run_that_says_less_is_compared_by_what_it_says(
    made: tuple[Path, Callable[[bool], None]], cache_dir: Path
) -> None:
    top, command = made
    folder = RunFolder(top / "outputs")
    facts = folder.read_run()
    for fact in ("inputs", "contents", "given"):
        folder.update_run(**{fact: None})
    command(False)
    assert inputs.changed(folder.read_run()["inputs"]) == []
    folder.update_run(inputs=None, fingerprint="another")
    with pytest.raises(ConfigError, match="the task sequence's data changed from another to"):
        command(False)
    folder.update_run(**facts)


def test_texts_and_references_of_a_method_are_part_of_it(compose: Compose, tmp_path: Path) -> None:
    """That the texts' file, or the captions', is another is seen though its name is the same."""
    draw(tmp_path / "pictures" / "0.png", 0)
    words = (*SMALL, "method=zscl", "reference=folder", f"reference.root={tmp_path}/pictures")
    words += (f"reference.captions={tmp_path}/captions.txt", "class_texts=file", f"class_texts.path={tmp_path}/t.json")
    config = compose(*words)
    with open_dict(config):
        config.method.class_texts = config.class_texts
    sequence = make_sequence(config)
    found = []
    for caption, text in (("one", "x"), ("two", "x"), ("two", "y")):
        (tmp_path / "captions.txt").write_text(caption)
        (tmp_path / "t.json").write_text(json.dumps({"star": [text]}))
        found.append(origin.data_of(config, sequence))
    assert len({facts["given"] for facts in found}) == 3
    named = {path for _, path, _ in found[0]["inputs"]}
    assert {f"{tmp_path}/captions.txt", f"{tmp_path}/t.json", f"{tmp_path}/pictures"} <= named


def test_large_sets_are_known_by_parts_of_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "WHOLE", 1)
    path, size = tmp_path / "0.bin", 10 * inputs.PART
    digests = []
    for changed in (None, 0, size // 2, size - 1, inputs.PART + 1):
        content = bytearray(size)
        if changed is not None:
            content[changed] = 1
        path.write_bytes(content)
        digests.append(inputs.contents_sha256([path]))
    assert len(set(digests)) == 4
    assert digests[0] == digests[-1]  # between the parts


@pytest.mark.parametrize(
    "wrap",
    [
        lambda files: ConcatSamples([files, files.subset([0])]),
        lambda files: Relabelled(files, [3, 7]),
        lambda files: CaptionedImages(files, [["a"], ["b"]]),
        lambda files: MaskedImages(files, np.zeros((2, 4, 4), np.int64)),
        lambda files: SessionView(files, 0),
        Unlabelled,
        lambda files: CachedImages(files, lambda image: torch.empty(0), np.empty((2, 3, 4, 4), np.uint8), np.arange(2)),
    ],
)
def test_samples_name_the_files_of_what_they_wrap(wrap: Callable[[FileImages], Samples], tmp_path: Path) -> None:
    files = FileImages([tmp_path / "a", tmp_path / "b"], np.arange(2), tmp_path, lists=[tmp_path / "list"])
    assert set(wrap(files).files) == {tmp_path / "a", tmp_path / "b", tmp_path / "list"}
