"""What a run tells its mirrors, also when it is stopped and goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, open_dict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from everclip.commands import run as command
from everclip.methods.finetune import Finetune
from everclip.runs.folder import RunFolder
from everclip.runs.scores import confusion_of
from everclip.types import Batch
from tests.conftest import SMALL
from tests.correct import correct
from tests.wandb_record import read_records, read_wandb

Run = Callable[..., RunFolder]
MIRRORS = ("logger=all", "trainer.log_every=2", "logger.wandb.log_model=true", "tags=[mine]", "notes=a try")


@pytest.fixture(autouse=True)
def _wandb_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))


def check_mirrors(folder: RunFolder) -> None:
    """Every step and session once, in W&B and in TensorBoard."""
    record, sessions = read_wandb(folder.path), folder.read_sessions()
    assert record.points("train/step") == [2, 4, 6, 8]
    assert record.points("session/index") == [0, 1, 2]
    assert record.points("session/accuracy") == [pytest.approx(session["accuracy"]) for session in sessions]
    assert [len(captions) for captions in record.points("session/samples/captions")] == [8, 8, 8]
    assert [max(artifact.aliases) for artifact in record.artifacts if artifact.type == "model"] == [
        "session_00",
        "session_01",
        "session_02",
    ]
    assert record.summary["final/average_accuracy"] == pytest.approx(folder.read_summary()["average_accuracy"])
    assert {"plots/accuracy_matrix/path", "accuracy_matrix/path", "confusion_between_sessions_table/path"} <= {
        key for row in record.history for key in row
    }
    assert record.run.run_id == folder.read_run()["id"]
    assert record.run.run_group.startswith("shapes_fscil/finetune/base_classes=6/")
    assert {"finetune", "shapes_fscil", "tiny", "shots=3", "mine"} <= set(record.run.tags)
    assert record.run.notes == "a try"
    assert record.run.display_name.startswith("finetune-shapes_fscil-tiny-base_classes=6-")
    events = EventAccumulator(str(folder.path / "tensorboard"), purge_orphaned_data=False).Reload()
    assert [event.step for event in events.Scalars("train/cross_entropy")] == [2, 4, 6, 8]
    assert [event.step for event in events.Scalars("session/accuracy")] == [0, 1, 2]


def test_a_run_that_was_stopped_and_went_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Finetune.loss, 0

    def stopping(self: Finetune, batch: Batch) -> dict[str, object]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise RuntimeError("stopped in session 1")
        return dict(original(self, batch))

    with monkeypatch.context() as patch:
        patch.setattr(Finetune, "loss", stopping)
        with pytest.raises(RuntimeError, match="stopped in session 1"):
            run("method=finetune", *MIRRORS)
    assert read_wandb(tmp_path / "run").exit_code == 1
    check_mirrors(run("method=finetune", *MIRRORS, plots=True))


def test_a_run_begun_anew_or_elsewhere_is_another_for_w_and_b(run: Run) -> None:
    words = ("method=zero_shot", "max_sessions=1")
    first = run(*words).read_run()
    assert first["id"].startswith(f"{first['digest']}-seed0-")
    ids = {first["id"], run(*words, folder="other").read_run()["id"], run(*words, "restart=true").read_run()["id"]}
    assert len(ids) == 3


@pytest.fixture
def _of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import wandb

    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    yield
    wandb.teardown()  # what it read of the environment


@pytest.mark.usefixtures("_of_a_sweep")
def test_w_and_b_is_told_of_each_trial_of_its_sweep_once(
    compose: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials of the same settings share a folder: the later ones find the work done, and have an id of their own."""
    import wandb

    config = compose(*SMALL, "method=zero_shot", "max_sessions=1", "logger=wandb")
    hydra = config.hydra
    with open_dict(config):
        del config["hydra"]
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr("everclip.reporting.results.write_plots", lambda folder: [])
    for trial in ("first", "second", "second"):
        monkeypatch.setenv("WANDB_RUN_ID", trial)
        wandb.teardown()  # each trial is a process of its own, which reads the environment once
        command._run_or_report(config, hydra, folder)
        assert folder.read_run()["id"] == trial
    assert len(folder.read_run()["attempts"]) == 2  # the last command had nothing to tell
    for trial in ("first", "second"):
        (path,) = folder.path.glob(f"wandb/offline-run-*-{trial}/*.wandb")
        record = read_records(path)
        assert (record.run.run_id, record.run.sweep_id) == (trial, "sweep")
        assert record.points("session/index") == [0]
        assert record.exit_code == 0
        assert record.summary["final/average_accuracy"] == folder.read_summary()["average_accuracy"]


def test_records_hold_the_confusion_and_the_guesses(run: Run) -> None:
    records = run("method=zero_shot").read_sessions()
    assert [len(record["guesses"]) for record in records] == [8, 8, 8]
    kept = [set(task) for record in records[:-1] for task in record["tasks"]]
    assert kept == [{"task", "name", "scores"}] * 3  # no more, for each of them grows with the sessions
    assert [sum(task["predicted"]) for task in records[-1]["tasks"]] == [30, 10, 10]
    confusion = confusion_of(records)
    assert confusion.sum(axis=1).tolist() == [30, 10, 10]
    assert all(confusion[task["task"], task["task"]] >= correct(task) for task in records[-1]["tasks"])
    guess = records[-1]["guesses"][-1]
    assert (guess["task"], guess["image"]) == (2, 9)  # the very last test picture
    chances = [probability for _, probability in guess["names"]]
    assert len(chances) == 3
    assert chances == sorted(chances, reverse=True)
