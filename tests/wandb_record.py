"""Reads an offline W&B record back with W&B's own messages."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2


@dataclass
class WandbRecord:
    """What one `.wandb` file says; numbers and texts as they were logged."""

    run: Any = None
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    exit_code: int | None = None

    def points(self, axis: str) -> list[Any]:
        """The values of an axis, in the order of logging."""
        return [row[axis] for row in self.history if axis in row]


def read_wandb(folder: Path) -> WandbRecord:
    """The only offline record of a run folder; W&B's service may still be writing its end."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return read_records(path)


def read_records(path: Path) -> WandbRecord:
    """A whole `.wandb` file."""
    deadline = time.monotonic() + 30
    while (record := _parse(path)).exit_code is None:
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.05)
    return record


def _parse(path: Path) -> WandbRecord:
    found = WandbRecord()
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            found.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            found.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "artifact" or (kind == "request" and record.request.HasField("log_artifact")):
            found.artifacts.append(record.artifact if kind == "artifact" else record.request.log_artifact.artifact)
        elif kind == "files":
            found.files += [item.path for item in record.files.files]
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a W&B file: a LevelDB log of 32 KiB blocks behind a header of 7 bytes."""
    assert content[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # a block's rest too short for a header is padding
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        if position + 7 + length > len(content):  # still being written
            return
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
