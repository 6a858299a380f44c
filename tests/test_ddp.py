"""Two CPU processes with gloo give what one process gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from everclip.catalogue import option_names
from everclip.checkpoint import load_session
from everclip.data.loading import OrderedBatches, SeededBatches
from everclip.run_folder import RunFolder
from tests.conftest import SMALL

# 9 pictures per later session in batches of 4: the last batch has one picture, so one process has none.
WORDS = [*SMALL, "sequence.way=3", "sequence.num_classes=9", "sequence.shots=3", "train.batch_size=4"]


def run(tmp_path: Path, cache_dir: Path, method: str, *words: str) -> RunFolder:
    places = [f"paths.outputs={tmp_path}", f"paths.cache={cache_dir}"]
    command = [sys.executable, "-m", "everclip.cli", *WORDS, f"method={method}", *places, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == 0, done.stderr
    return RunFolder(Path(done.stdout.splitlines()[-1]))


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("method", option_names("method"))
def test_two_processes_equal_one(tmp_path: Path, cache_dir: Path, method: str) -> None:
    one = run(tmp_path / "one", cache_dir, method)
    two = run(tmp_path / "two", cache_dir, method, "trainer=ddp", "trainer.accelerator=cpu")
    assert two.read_run()["devices"] == 2
    assert (one.path / "counts.csv").read_text() == (two.path / "counts.csv").read_text()
    for ours, theirs in zip(two.read_sessions(), one.read_sessions(), strict=True):
        for task, other in zip(ours["tasks"], theirs["tasks"], strict=True):
            assert abs(task["correct"] - other["correct"]) <= 1
    alone, together = load_session(one.checkpoint(1))[0], load_session(two.checkpoint(1))[0]
    assert alone.keys() == together.keys()
    if one.read_sessions()[0]["train_steps"] == 0:
        assert (one.path / "accuracy_matrix.csv").read_bytes() == (two.path / "accuracy_matrix.csv").read_bytes()
    for name in alone if method == "cpe_clip" else ():
        torch.testing.assert_close(together[name], alone[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_process_count_sees_the_same_batches(world_size: int) -> None:
    alone = list(SeededBatches(10, 4, (1, 2), steps=5))
    streams = [SeededBatches(10, 4, (1, 2), steps=5, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [list(stream) for stream in streams]
    for index, batch in enumerate(alone):
        together = [picture for share in shares for picture in share[index]]
        assert set(together) == set(batch)
        assert sum(stream.weight(index) for stream in streams) == pytest.approx(world_size)


def test_a_process_without_a_picture_counts_nothing() -> None:
    batches = SeededBatches(5, 4, (0,), steps=2, rank=1, world_size=2)
    assert [len(batch) for batch in batches] == [2, 1]
    assert [batches.weight(index) for index in range(2)] == [1, 0]


def test_micro_batches_share_a_step() -> None:
    whole = list(SeededBatches(10, 4, (1,), steps=3))
    stream = SeededBatches(10, 4, (1,), steps=3, parts=3)
    parts = list(stream)
    assert [sorted({p for part in parts[3 * i : 3 * i + 3] for p in part}) for i in range(3)] == [
        sorted(batch) for batch in whole
    ]
    assert [stream.weight(i) for i in range(9)] == pytest.approx([2 / 4, 1 / 4, 1 / 4] * 2 + [1 / 2, 1 / 2, 0])


@pytest.mark.parametrize("start", [1, 3, 4])
def test_a_stream_may_start_at_any_step(start: int) -> None:
    whole = SeededBatches(10, 4, (5,), steps=7)
    later = SeededBatches(10, 4, (5,), steps=7, start=start)
    assert list(later) == list(whole)[start:]
    assert [later.weight(i) for i in range(len(later))] == [whole.weight(i) for i in range(start, 7)]


def test_the_order_depends_on_key_and_epoch_alone() -> None:
    first, second = SeededBatches(100, 100, (3,), steps=2)
    assert [first, second] == list(SeededBatches(100, 100, (3,), steps=2))
    assert first != second
    assert sorted(first) == list(range(100))
    assert next(iter(SeededBatches(100, 100, (4,), steps=1))) != first


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_shares_hold_every_picture_once(world_size: int) -> None:
    shares = [list(OrderedBatches(10, 3, rank, world_size)) for rank in range(world_size)]
    assert sorted(picture for share in shares for batch in share for picture in batch) == list(range(10))
