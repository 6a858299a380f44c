from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import everclip.loggers.mirrors
from everclip.loggers.base import RunLogger, Sample
from everclip.loggers.csv import CsvLogger
from everclip.loggers.mirrors import Loggers
from everclip.loggers.tensorboard import TensorBoardLogger
from everclip.loggers.wandb import WandbLogger, _logged_in, best_of, confusion_rows, start_wandb
from tests.wandb_record import read_wandb

MATRIX = np.array([[90.0, np.nan], [80.0, 60.0]])
CONFUSION = np.array([[8, 2], [1, 9]])
KEY = "k" * 40


def rows(folder: Path) -> list[list[str]]:
    with (folder / "train.csv").open(newline="") as file:
        return list(csv.reader(file))


def sample(label: str = "cat") -> Sample:
    return Sample(np.full((8, 8, 3), 200, np.uint8), label, (("dog", 0.61), ("cat", 0.3), ("cow", 0.05)))


@pytest.fixture(autouse=True)
def _wandb_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))


def wandb_run(folder: Path) -> Any:
    return start_wandb(
        folder,
        run_id="ab12-seed0",
        name="ncm-shapes-seed0",
        group="shapes/ncm",
        tags=["ncm", "shapes", "tiny"],
        notes="a try",
        config={"optimizer": {"lr": 0.1}},
        project="everclip",
        entity=None,
        mode="auto",
    )


def mirrors(folder: Path, step: int) -> Loggers:
    """The record with both mirrors, as a process that goes on from `step` makes them."""
    return Loggers(CsvLogger(folder, step), [WandbLogger(wandb_run(folder), True), TensorBoardLogger(folder)])


def tell_session(loggers: RunLogger, folder: Path, index: int, step: int) -> None:
    path = folder / f"session_{index:02d}.safetensors"
    path.write_bytes(bytes([index]))
    loggers.checkpoint(path, index)
    loggers.session({"session/accuracy": 90.0 - index, "session/forgetting": 1.0 + index}, index, step, [sample()])


def losses(loggers: RunLogger, *steps: int) -> None:
    for step in steps:
        loggers.train({"train/loss": step / 10, "train/lr": 0.1}, step)


def test_csv_has_one_line_per_value(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path, 0)
    logger.train({"train/loss": 0.5, "train/lr": 0.1}, 10)
    logger.close()
    assert rows(tmp_path) == [["step", "name", "value"], ["10", "train/loss", "0.5"], ["10", "train/lr", "0.1"]]


def test_a_resumed_csv_drops_what_comes_again_and_half_a_line(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path, 0)
    losses(logger, 10, 20, 30)
    logger.close()
    with (tmp_path / "train.csv").open("a") as file:
        file.write("\0\0,train/lr,1\n40,train/l")
    logger = CsvLogger(tmp_path, 20)
    assert logger.history == [
        (10, {"train/loss": 1.0, "train/lr": 0.1}),
        (20, {"train/loss": 2.0, "train/lr": 0.1}),
    ]
    logger.train({"train/loss": 9.0}, 30)
    logger.close()
    losses_only = [row[::2] for row in rows(tmp_path) if row[1] == "train/loss"]
    assert losses_only == [["10", "1.0"], ["20", "2.0"], ["30", "9.0"]]


def test_flushed_lines_are_in_the_file_at_once(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path, 0)
    losses(logger, 10)
    assert len(rows(tmp_path)) == 1
    logger.flush()
    assert len(rows(tmp_path)) == 3
    logger.close()


class Broken(RunLogger):
    def train(self, metrics: object, step: int) -> None:
        raise RuntimeError("disk full")


def test_a_broken_mirror_is_dropped_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(everclip.loggers.mirrors.log, "warning", lambda text, *values: warnings.append(text % values))
    loggers = Loggers(CsvLogger(tmp_path, 0), [Broken()])
    losses(loggers, 10, 20)
    loggers.close()
    assert len(rows(tmp_path)) == 5
    assert warnings == ["Broken stopped logging: disk full"]


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("session/accuracy", "max"),
        ("session/harmonic_mean", "max"),
        ("session/forgetting/lagged_mean", "min"),
        ("session/performance_drop", "min"),
        ("session/train_seconds", "min"),
        ("session/seen_classes", None),
    ],
)
def test_best_of(name: str, best: str | None) -> None:
    assert best_of(name) == best


def test_the_offline_wandb_record(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "curve.png")
    loggers = mirrors(tmp_path, 0)
    losses(loggers, 10, 20)
    tell_session(loggers, tmp_path, 0, 20)
    losses(loggers, 30)
    tell_session(loggers, tmp_path, 1, 30)
    plots = [tmp_path / "curve.png", tmp_path / "curve.pdf"]
    loggers.final({"last_accuracy": 89.0, "average/pooled": 89.5}, plots, {"accuracy": MATRIX}, CONFUSION)
    loggers.close()

    record = read_wandb(tmp_path)
    assert (record.run.run_id, record.run.run_group) == ("ab12-seed0", "shapes/ncm")
    assert (sorted(record.run.tags), record.run.notes) == (["ncm", "shapes", "tiny"], "a try")
    assert record.config["optimizer"] == {"lr": 0.1}
    assert record.exit_code == 0
    assert record.points("train/step") == [10, 20, 30]
    assert record.points("train/loss") == [1.0, 2.0, 3.0]
    assert record.points("session/index") == [0, 1]
    assert record.points("session/samples/captions") == [["cat: dog 0.61, cat 0.30, cow 0.05"]] * 2
    assert record.metrics["train/*"].step_metric == "train/step"
    assert record.metrics["session/*"].step_metric == "session/index"
    assert record.summary["session/accuracy"] == {"last": 89.0, "max": 90.0}
    assert record.summary["session/forgetting"] == {"last": 2.0, "min": 1.0}
    assert record.summary["train/loss"] == {"last": 3.0, "min": 1.0}
    assert (record.summary["final/last_accuracy"], record.summary["final/average/pooled"]) == (89.0, 89.5)
    assert record.points("plots/curve/_type") == ["image-file"]
    models = [artifact for artifact in record.artifacts if artifact.type == "model"]
    assert [sorted(artifact.aliases) for artifact in models] == [["latest", "session_00"], ["latest", "session_01"]]
    assert [artifact.manifest.contents[0].path for artifact in models] == [
        "session_00.safetensors",
        "session_01.safetensors",
    ]
    tables = {Path(name).name.rsplit("_", 2)[0]: name for name in record.files if name.endswith(".table.json")}
    (run,) = tmp_path.glob("wandb/offline-run-*")
    matrix = json.loads((run / "files" / tables["accuracy_matrix"]).read_text())
    assert matrix == {"columns": ["session", "task_00", "task_01"], "data": [[0, 90.0, None], [1, 80.0, 60.0]]}
    confusion = json.loads((run / "files" / tables["confusion_between_sessions_table"]).read_text())
    assert confusion["data"] == [["00", "00", 8], ["00", "01", 2], ["01", "00", 1], ["01", "01", 9]]


def test_sessions_sort_as_text_however_many_there_are() -> None:
    rows = confusion_rows(np.eye(101, dtype=np.int64))
    assert (rows[0], rows[-1]) == (["000", "000", 1], ["100", "100", 1])
    assert rows == sorted(rows)


def test_the_key_is_in_no_file(tmp_path: Path) -> None:
    loggers = mirrors(tmp_path, 0)
    losses(loggers, 10)
    loggers.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_an_artifact_that_cannot_be_stored_costs_no_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loggers = mirrors(tmp_path, 0)
    for index in range(2):
        loggers.checkpoint(tmp_path / "missing.safetensors", index)
        loggers.session({"session/accuracy": 90.0}, index, 20 * index)
    loggers.close()
    assert read_wandb(tmp_path).points("session/index") == [0, 1]
    (message,) = caplog.messages
    assert message.startswith("W&B takes no artifacts, later ones are left out: ")


def test_the_end_of_a_run_waits_for_a_server_no_longer_than_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    for folder, seconds in (("default", None), ("told", "7")):
        if seconds:
            monkeypatch.setenv("WANDB_FINISH_TIMEOUT", seconds)
        run = wandb_run(tmp_path / folder)
        limits.append(run.settings.finish_timeout)
        run.finish()
    assert limits == [60, 7]


def test_a_failed_run_is_marked_so(tmp_path: Path) -> None:
    loggers = mirrors(tmp_path, 0)
    loggers.close(failed=True)
    assert read_wandb(tmp_path).exit_code == 1


CHILD = """
import os, signal
from pathlib import Path
from tests.test_loggers import losses, mirrors, tell_session
folder = Path({folder!r})
loggers = mirrors(folder, 0)
losses(loggers, 10, 20)
loggers.flush()
tell_session(loggers, folder, 0, 20)
losses(loggers, 30)
loggers.flush()  # a checkpoint within session 1, at step 35
losses(loggers, 40, 50)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_kill_9_nothing_is_missing_or_twice(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    environment.pop("WANDB_SERVICE", None)  # of this process; a run of its own has its own, which dies with it
    done = subprocess.run([sys.executable, "-c", CHILD.format(folder=str(tmp_path))], env=environment, timeout=120)
    assert done.returncode == -9

    loggers = mirrors(tmp_path, 35)
    tell_session(loggers, tmp_path, 0, 20)  # as the runner does for the sessions that are done
    losses(loggers, 40, 50)
    tell_session(loggers, tmp_path, 1, 50)
    loggers.final({"last_accuracy": 89.0}, [], {"accuracy": MATRIX}, CONFUSION)
    loggers.close()

    record = read_wandb(tmp_path)  # which also finds that there is one record only
    assert record.points("train/step") == [10, 20, 30, 40, 50]
    assert record.points("train/loss") == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert record.points("session/index") == [0, 1]
    axes = [row.get("train/step", row.get("session/index")) for row in record.history]
    assert axes == [10, 20, 0, 30, 40, 50, 1, None]  # in the order of an uninterrupted run
    assert [max(artifact.aliases) for artifact in record.artifacts if artifact.type == "model"] == [
        "session_00",
        "session_01",
    ]
    events = EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=False).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (step, pytest.approx(step / 10)) for step in (10, 20, 30, 40, 50)
    ]
    assert [event.step for event in events.Scalars("session/accuracy")] == [0, 1]
    assert events.Scalars("final/last_accuracy")[0].value == 89.0
    assert [row[0] for row in rows(tmp_path)[1::2]] == ["10", "20", "30", "40", "50"]


def test_a_run_stopped_right_after_it_went_on_keeps_its_losses(tmp_path: Path) -> None:
    loggers = mirrors(tmp_path, 0)
    losses(loggers, 10, 20)
    loggers.close(failed=True)
    mirrors(tmp_path, 20).close(failed=True)
    assert read_wandb(tmp_path).points("train/step") == [10, 20]


@pytest.fixture
def wandb_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """W&B as it finds a user who is not logged in, and an online server that is none."""
    import wandb

    wandb.teardown()  # before the environment is kept: it names the service that this ends
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    yield
    wandb.teardown()


@pytest.mark.usefixtures("wandb_alone")
def test_a_login_at_any_server_is_seen(tmp_path: Path) -> None:
    import wandb

    assert not _logged_in(wandb.Settings(silent=True))
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1:9\n login user\n password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert _logged_in(wandb.Settings(silent=True))


@pytest.mark.usefixtures("wandb_alone")
@pytest.mark.parametrize("key", ["", KEY], ids=["nobody logged in", "no network"])
def test_where_w_and_b_cannot_be_reached_the_record_is_offline(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    logger = WandbLogger(wandb_run(tmp_path), False)
    losses(logger, 10)
    logger.close()
    assert read_wandb(tmp_path).points("train/step") == [10]
    (message,) = caplog.messages
    assert message.endswith(f"; recording offline, `wandb sync {tmp_path}/wandb` sends it later")
    assert "\n" not in message


def test_a_resumed_online_run_gets_only_what_it_lacks(tmp_path: Path) -> None:
    """A resumed run brings its summary along; here the same open run stands for it."""
    run = wandb_run(tmp_path)
    record_of_losses = CsvLogger(tmp_path, 0)
    first = Loggers(record_of_losses, [WandbLogger(run, True)])
    losses(first, 10, 20)
    tell_session(first, tmp_path, 0, 20)
    losses(first, 30, 40)
    record_of_losses.close()

    second = Loggers(CsvLogger(tmp_path, 30), [WandbLogger(run, True)])
    tell_session(second, tmp_path, 0, 20)
    losses(second, 40, 50)
    tell_session(second, tmp_path, 1, 50)
    second.close()
    record = read_wandb(tmp_path)
    assert record.points("train/step") == [10, 20, 30, 40, 50]
    assert record.points("session/index") == [0, 1]
    assert [max(artifact.aliases) for artifact in record.artifacts] == ["session_00", "session_01"]
