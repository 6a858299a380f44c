"""Stored sessions put to use, and what a run folder may not do."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms.functional import to_pil_image

import everclip
from everclip import storage
from everclip.backbones.open_clip import OpenClip
from everclip.commands import evaluate
from everclip.commands import run as cli
from everclip.commands.load import AdaptedModel, checkpoint_of, read_config
from everclip.config.build import build
from everclip.data.images import FileImages, Relabelled
from everclip.errors import ConfigError, MissingError
from everclip.methods.base import Method
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import CheckpointError
from everclip.types import ClassSet, TaskSequence
from tests.conftest import SMALL
from tests.correct import correct

Run = Callable[..., RunFolder]
FAST = ("train.max_steps=2",)


def sequence_of(folder: RunFolder) -> TaskSequence:
    config = OmegaConf.load(folder.path / "config.yaml")
    sequence = build("sequence", config.sequence)
    assert isinstance(sequence, TaskSequence)
    return sequence


def pictures(sequence: TaskSequence, task: int, resize: Callable[[Image.Image], torch.Tensor]) -> list[Image.Image]:
    test = sequence.tasks[task].samples
    return [to_pil_image(image) for image in test.read(range(len(test)), resize).images]


def test_a_loaded_model_scores_as_the_run_did(finished: Run) -> None:
    folder = finished(*FAST)
    sequence = sequence_of(folder)
    for session in (0, -1):
        model = everclip.load(folder.path, session)
        record = folder.read_sessions()[session]
        assert model.classes == sequence.sessions[session].seen
        counted = {}
        for task in record["tasks"]:
            images = pictures(sequence, task["task"], model.backbone.resize)
            predicted = model.classify(images).argmax(dim=1)
            target = model.classes.columns(torch.from_numpy(np.asarray(sequence.tasks[task["task"]].samples.labels)))
            counted[task["task"]] = int((predicted == target).sum())
        assert counted == {task["task"]: correct(task) for task in record["tasks"]}


def test_other_names_are_scored_where_the_method_can(finished: Run) -> None:
    model = everclip.load(finished(*FAST).path)
    image = Image.new("RGB", (20, 31), "red")
    names = ["red card", "blue card", "something else"]
    assert model.classify([image], names).shape == (1, 3)
    torch.testing.assert_close(model.classify([image, image], names).sum(dim=1), torch.ones(2))
    reversed_ = model.classify([image], names[::-1])
    torch.testing.assert_close(model.classify([image], names).flip(1), reversed_)
    for features in (model.encode_image([image]), model.encode_text(names)):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))


def test_a_closed_method_refuses_other_names(finished: Run) -> None:
    model = everclip.load(finished("method=ncm").path)
    chosen = [model.classes.names[i] for i in (3, 1)]
    image = Image.new("RGB", (20, 31), "red")
    of_all = model.method.logits(model.preprocess([image]), model.classes)
    torch.testing.assert_close(model.classify([image], chosen), of_all[:, [3, 1]].softmax(dim=1))
    with pytest.raises(ConfigError, match="Ncm scores trained classes only, not 'okapi'"):
        model.classify([image], [*chosen, "okapi"])


def test_pictures_are_prepared_as_a_run_prepares_their_files(tiny: Callable[[], OpenClip], tmp_path: Path) -> None:
    noise = np.random.Generator(np.random.PCG64(0))
    grey = Image.fromarray(noise.integers(0, 65536, (40, 50), dtype=np.uint16))
    colour = Image.fromarray(noise.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    turned = colour.getexif()
    turned[0x0112] = 6
    paths = [tmp_path / name for name in ("grey.png", "turned.png", "alpha.png")]
    grey.save(paths[0])
    colour.save(paths[1], exif=turned)
    colour.convert("RGBA").save(paths[2])
    model = AdaptedModel(Method(tiny()), ClassSet((0,), ("star",)), {})
    shown = FileImages(paths, np.zeros(3, np.int64), tmp_path).read(range(3), model.backbone.resize).images
    expected = model.backbone.normalize(shown)
    assert torch.equal(model.preprocess([Image.open(path) for path in paths]), expected)


def test_what_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"holds no checkpoint$"):
        everclip.load(tmp_path)
    folder = run("method=zero_shot", "max_sessions=2")
    with pytest.raises(MissingError, match=r"holds no checkpoint of session 2; stored are 0, 1$"):
        everclip.load(folder.path, 2)
    folder.checkpoint(1).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"session_01\.safetensors cannot be read"):
        everclip.load(folder.path)
    (folder.path / "config.yaml").unlink()
    with pytest.raises(MissingError, match=r"config\.yaml is not there"):
        everclip.load(folder.path, 0)


def test_sessions_are_found_by_their_numbers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    stored = [0, 1, 9, 10, 11, 98, 99, 100, 101]
    for session in stored:
        storage.write_bytes(folder.checkpoint(session), b"")
    storage.write_bytes(tmp_path / "checkpoints" / "session_best.safetensors", b"")
    assert [checkpoint_of(tmp_path, session) for session in stored] == [folder.checkpoint(s) for s in stored]
    assert [checkpoint_of(tmp_path, session) for session in (-1, -3, -9)] == [
        folder.checkpoint(s) for s in (101, 99, 0)
    ]
    named = "stored are 0, 1, 9, 10, 11, 98, 99, 100, 101"
    for session in (2, 102, -10):
        with pytest.raises(MissingError, match=f"holds no checkpoint of session {session}; {named}$"):
            checkpoint_of(tmp_path, session)


def test_a_run_folder_cannot_call_what_it_names(finished: Run, tmp_path: Path) -> None:
    """What may be named is for tests/test_trust.py; here, that nothing is built without being asked."""
    shutil.copytree(finished("method=zero_shot").path, tmp_path / "run")
    stored, called = tmp_path / "run" / "config.yaml", tmp_path / "called"
    original = yaml.safe_load(stored.read_text())
    evil = {"_target_": "builtins.open", "_args_": [str(called), "w"]}
    for change, message in (
        ({"method": original["method"] | {"a": evil}}, r"names builtins\.open, which is neither"),
        ({"method": original["method"] | {"a": "${evil}"}, "evil": evil}, "holds the interpolation"),
        ({"backbone": evil}, r"names builtins\.open, which is neither"),
    ):
        stored.write_text(yaml.safe_dump(original | change))
        with pytest.raises(ConfigError, match=message):
            everclip.load(tmp_path / "run")
    assert not called.exists()
    stored.write_text(yaml.safe_dump(original | {"sequence": evil}))
    checkpoint = RunFolder(tmp_path / "run").checkpoint(0)
    assert "sequence" not in read_config(checkpoint)
    with pytest.raises(ConfigError, match=r"names builtins\.open"):
        read_config(checkpoint, sequence=True)


@pytest.fixture
def everclip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, cache_dir: Path
) -> Callable[..., tuple[int, str]]:
    """Runs the command in this process; gives exit code and stderr."""

    def command(*words: str) -> tuple[int, str]:
        places = [f"paths.outputs={tmp_path}/outputs", f"paths.cache={cache_dir}", f"hydra.run.dir={tmp_path}/run"]
        monkeypatch.setattr(sys, "argv", ["everclip", *places, *SMALL, *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), capsys.readouterr().err

    return command


def test_eval_gives_the_recorded_row_again(
    everclip_command: Callable[..., tuple[int, str]], finished: Run, tmp_path: Path
) -> None:
    shutil.copytree(finished(*FAST).path, tmp_path / "run")
    assert everclip_command(*FAST, "eval=session_01.safetensors")[0] == 0
    folder = RunFolder(tmp_path / "run")
    found = json.loads(next(folder.path.glob("evaluations/session_01_on_*.json")).read_text())
    record = folder.read_sessions()[1]
    assert [{key: row[key] for key in row if key != "predicted"} for row in found["tasks"]] == record["tasks"]
    assert found["zero_shot_accuracy"] == record["zero_shot_accuracy"]

    path = folder.checkpoint(2)
    assert everclip_command(f"eval={path}", "sequence.base_classes=4", "sequence.style=scenes")[0] == 0
    other = [json.loads(file.read_text()) for file in folder.path.glob("evaluations/session_02_on_*.json")]
    assert [len(facts["tasks"]) for facts in other] == [4]
    assert other[0]["fingerprint"] != found["fingerprint"]
    assert (folder.path / "evaluations" / f"session_02_on_shapes_fscil-{other[0]['fingerprint'][:8]}.json").is_file()

    folder.update_run(fingerprint="of other data")
    code, message = everclip_command(*FAST, "eval=session_01")
    assert code == 2
    assert "the task sequence's data changed from of other data to" in message

    code, message = everclip_command(*FAST, "eval=session_07")
    assert code == 2
    assert "session_07.safetensors is not there" in message
    assert len(message.splitlines()) == 1


def renumbered(sequence: TaskSequence) -> TaskSequence:
    """The same sequence with other class ids, as where its data set has more classes in front."""

    def other(classes: ClassSet) -> ClassSet:
        return replace(classes, ids=tuple(number + 3 for number in classes.ids))

    sessions = [replace(s, new=other(s.new), train=Relabelled(s.train, range(3, 103))) for s in sequence.sessions]
    tasks = [replace(t, classes=other(t.classes), samples=Relabelled(t.samples, range(3, 103))) for t in sequence.tasks]
    return replace(sequence, sessions=tuple(sessions), tasks=tuple(tasks))


def test_eval_finds_trained_classes_by_their_names(
    everclip_command: Callable[..., tuple[int, str]], finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(shutil.copytree(finished("method=rail").path, tmp_path / "run"))
    make = evaluate.make_sequence
    monkeypatch.setattr(evaluate, "make_sequence", lambda config: renumbered(make(config)))
    assert everclip_command("method=rail", f"eval={folder.checkpoint(2)}") == (0, "")
    found = json.loads(next(folder.path.glob("evaluations/session_02_on_*.json")).read_text())
    record = folder.read_sessions()[2]
    assert found["fingerprint"] != folder.read_run()["fingerprint"]
    assert (found["tasks"], found["zero_shot_accuracy"]) == (record["tasks"], record["zero_shot_accuracy"])


def test_eval_of_a_closed_method_needs_its_own_sequence(
    everclip_command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    assert everclip_command("method=ncm", "max_sessions=1")[0] == 0
    path = RunFolder(tmp_path / "run").checkpoint(0)
    code, message = everclip_command(f"eval={path}", "sequence.base_classes=4")
    assert code == 2
    assert "scores its own classes only" in message
