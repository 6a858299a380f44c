from __future__ import annotations

import csv
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import everclip.loggers
from everclip.loggers import CsvLogger, Loggers, RunLogger
from everclip.run_folder import RunFolder


def rows(folder: Path) -> list[list[str]]:
    with (folder / "train.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_csv_has_one_line_per_value(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path, 0)
    logger.train({"train/loss": 0.5, "train/lr": 0.1}, 10)
    logger.close()
    assert rows(tmp_path) == [["step", "name", "value"], ["10", "train/loss", "0.5"], ["10", "train/lr", "0.1"]]


def test_a_resumed_csv_drops_what_comes_again(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path, 0)
    for step in (10, 20, 30):
        logger.train({"train/loss": step / 10}, step)
    logger.close()
    logger = CsvLogger(tmp_path, 20)
    logger.train({"train/loss": 9.0}, 30)
    logger.close()
    assert [row[::2] for row in rows(tmp_path)[1:]] == [["10", "1.0"], ["20", "2.0"], ["30", "9.0"]]


class Broken(RunLogger):
    def train(self, metrics: object, step: int) -> None:
        raise RuntimeError("disk full")


def test_a_broken_mirror_is_dropped_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(everclip.loggers.log, "warning", lambda text, *values: warnings.append(text % values))
    loggers = Loggers([Broken(), CsvLogger(tmp_path, 0)])
    loggers.train({"train/loss": 1.0}, 10)
    loggers.train({"train/loss": 1.0}, 20)
    loggers.close()
    assert len(rows(tmp_path)) == 3
    assert warnings == ["Broken stopped logging: disk full"]


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a W&B file: a LevelDB log of 32 KiB blocks behind a header of 7 bytes."""
    assert content[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # a block's rest too short for a header is padding
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.slow
def test_the_offline_wandb_record(run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    folder = run("method=cpe_clip", "logger=wandb", "trainer.log_every=2")
    (record_file,) = folder.path.glob("wandb/offline-run-*/*.wandb")
    history, summary, run_ids = [], {}, set()
    for data in wandb_records(record_file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            history.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items})
        elif record.WhichOneof("record_type") == "run":
            run_ids.add(record.run.run_id)
        elif record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert run_ids == {f"{folder.read_run()['digest']}-seed0"}
    assert [h["train/step"] for h in history if "train/step" in h] == [2, 4, 6, 8, 10, 12]
    sessions = [h for h in history if "session/index" in h]
    assert [h["session/index"] for h in sessions] == [0, 1, 2]
    recorded = folder.read_sessions()
    assert [h["session/accuracy"] for h in sessions] == [record["accuracy"] for record in recorded]
    assert summary["final/average_accuracy"] == pytest.approx(folder.read_summary()["average_accuracy"])
    key = b"k" * 40
    assert [path for path in folder.path.rglob("*") if path.is_file() and key in path.read_bytes()] == []
