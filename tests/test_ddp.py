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
    alone = list(SeededBatches(10, 4, (1, 2)))
    shares = [list(SeededBatches(10, 4, (1, 2), rank, world_size)) for rank in range(world_size)]
    for index, batch in enumerate(alone):
        together = [picture for share in shares for picture in share[index]]
        assert set(together) == set(batch)
        weights = [SeededBatches(10, 4, (1, 2), rank, world_size).weight(index) for rank in range(world_size)]
        assert sum(weights) == pytest.approx(world_size)


def test_a_process_without_a_picture_counts_nothing() -> None:
    batches = SeededBatches(5, 4, (0,), rank=1, world_size=2)
    assert [len(batch) for batch in batches] == [2, 1]
    assert [batches.weight(index) for index in range(2)] == [1, 0]


def test_the_order_depends_on_key_and_epoch_alone() -> None:
    batches = SeededBatches(100, 100, (3,))
    first, again = list(batches), list(batches)
    batches.set_epoch(1)
    second = list(batches)
    assert first == again != second
    assert sorted(second[0]) == list(range(100))
    assert list(SeededBatches(100, 100, (4,))) != first


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_shares_hold_every_picture_once(world_size: int) -> None:
    shares = [list(OrderedBatches(10, 3, rank, world_size)) for rank in range(world_size)]
    assert sorted(picture for share in shares for batch in share for picture in batch) == list(range(10))
