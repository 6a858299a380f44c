"""Damaged files are named, or do not matter: no reader gives anything but what was written."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from everclip.data.images import FileImages, read_image
from everclip.data.sequences.manifest import manifest
from everclip.digest import state_sha256
from everclip.errors import DataError, EverclipError, LockedError, Preempted
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import CheckpointError, load_progress, load_session
from everclip.training.monitor import Monitor
from everclip.types import Samples
from tests.conftest import run_in
from tests.faults.chaos import differences

Run = Callable[..., RunFolder]
LONG = "EVERCLIP_FUZZ" in os.environ  # as `make chaos` sets it
PER_FILE, RESUMED = (100, 40) if LONG else (10, 4)
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("corrupt")]


def mutated(content: bytes, dice: random.Random) -> bytes:
    """The bytes with one damage."""
    at, length = dice.randrange(len(content)), dice.randint(1, 600)
    kind = dice.choice(("flip", "flip", "flip", "zeros", "cut", "empty", "noise", "twice"))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (1 << dice.randrange(8))]) + content[at + 1 :]
    if kind == "zeros":
        return content[:at] + bytes(len(content[at : at + length])) + content[at + length :]
    if kind == "noise":
        return content[:at] + dice.randbytes(min(length, 40)) + content[at + min(length, 40) :]
    if kind == "twice":
        return content[:at] + content[at : at + length] + content[at:]
    return content[:at] if kind == "cut" else b""


def outcomes(path: Path, read: Callable[[], Any], right: Callable[[Any], bool], errors: Any) -> Counter[str]:
    """Damages a file many times; counts refusals and right results, and fails on anything else."""
    original, dice = path.read_bytes(), random.Random(path.name)
    found: Counter[str] = Counter()
    for _ in range(PER_FILE):
        path.write_bytes(mutated(original, dice))
        try:
            value = read()
        except errors as error:
            found["refused" if path.name in str(error) else f"unclear: {error}"] += 1
        else:
            assert right(value), (path.name, path.read_bytes()[:2000])
            found["right"] += 1
        path.write_bytes(original)
    assert set(found) <= {"refused", "right"}
    return found


WORDS = ("checkpoint.every_n_steps=1", "max_sessions=2")
Stopped = tuple[RunFolder, RunFolder]


@pytest.fixture(scope="module")
def left(finished: Run, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """A whole run, and one stopped inside session 1."""
    folder = tmp_path_factory.mktemp("left") / "stopped"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Monitor, "stop", property(lambda self: self.step == 5))
        with pytest.raises(Preempted):
            run_in(folder, cache_dir, *WORDS)
    return finished(*WORDS), RunFolder(folder)


@pytest.fixture
def stopped(left: Stopped, tmp_path: Path) -> Stopped:
    """Copies of both, to be damaged."""
    whole, folder = (shutil.copytree(f.path, tmp_path / n) for n, f in zip(("whole", "stopped"), left, strict=True))
    return RunFolder(whole), RunFolder(folder)


def test_readers_of_a_run_folder(stopped: Stopped) -> None:
    whole, folder = stopped

    def content(loaded: tuple[Any, ...]) -> str:
        tensors, *facts = loaded
        others = [vars(f) | {"state": state_sha256(f.state.tensors)} if hasattr(f, "state") else f for f in facts]
        return state_sha256(tensors) + json.dumps(others, default=vars, sort_keys=True)

    checkpoint, progress = folder.checkpoint(0), folder.progress
    session = content(load_session(checkpoint))
    found = [outcomes(checkpoint, lambda: load_session(checkpoint), lambda v: content(v) == session, CheckpointError)]
    state = content(load_progress(progress))
    found.append(outcomes(progress, lambda: load_progress(progress), lambda v: content(v) == state, CheckpointError))
    records = whole.read_sessions()
    lines = whole.path / "sessions.jsonl"
    found.append(outcomes(lines, whole.read_sessions, lambda v: v == records[: len(v)], ()))
    for name, read in (("run.json", whole.read_run), ("summary.json", whole.read_summary)):
        facts = read()
        found.append(outcomes(whole.path / name, read, lambda v, facts=facts: v in ({}, facts), ()))
    assert all(sum(counts.values()) == PER_FILE for counts in found)
    assert found[0]["refused"] > 0.9 * PER_FILE  # a checksum guards all of it


def test_a_damaged_lock_is_no_traceback(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.lock()
    path, dice = tmp_path / "lock.json", random.Random(0)
    original = path.read_bytes().replace(str(os.getpid()).encode(), str(os.getppid()).encode())
    for _ in range(PER_FILE):
        path.write_bytes(mutated(original, dice))
        with suppress(LockedError):
            folder.lock()
        assert [file.name for file in tmp_path.iterdir()] == ["lock.json"]


def test_a_list_and_its_pictures(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    rows = [
        f"{label}{i}.png,{label},{'test' if i < 2 else 'train'},{n}" for n, label in enumerate("ab") for i in range(5)
    ]
    for row in rows:
        Image.fromarray(dice.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(tmp_path / row.split(",")[0])
    path = tmp_path / "list.csv"
    path.write_text("\n".join(["path,label,split,session", *rows]))

    def listed(images: Samples) -> set[tuple[str, int]]:
        assert isinstance(images, FileImages)
        return {(file.name, int(label)) for file, label in zip(images.paths, images.labels, strict=True)}

    def parts() -> list[set[tuple[str, int]]]:
        sequence = manifest(file=str(path))
        return [listed(s.train) for s in sequence.sessions] + [listed(task.samples) for task in sequence.tasks]

    whole = parts()  # a list that is cut off is a list of fewer pictures
    found = outcomes(path, parts, lambda v: all(a <= b for a, b in zip(v, whole, strict=True)), EverclipError)
    assert found["refused"] > 0
    picture = tmp_path / "a0.png"
    pixels = read_image(picture).tobytes()
    found = outcomes(picture, lambda: read_image(picture).tobytes(), lambda v: v == pixels, DataError)
    assert found["refused"] > 0


def test_a_run_with_a_damaged_file_ends_right(run: Run, stopped: Stopped) -> None:
    whole, folder = stopped
    keep, dice = folder.path.with_name("keep"), random.Random(0)
    shutil.copytree(folder.path, keep)
    names = [
        path.relative_to(keep) for path in sorted(keep.rglob("*")) if path.suffix in (".json", ".jsonl", ".safetensors")
    ]
    assert len(names) == 4
    for number in range(RESUMED):
        shutil.rmtree(folder.path)
        shutil.copytree(keep, folder.path)
        path = folder.path / names[number % len(names)]
        path.write_bytes(mutated(path.read_bytes(), dice))
        run(*WORDS, folder="stopped")
        assert differences(whole, folder) == [], path
