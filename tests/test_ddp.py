"""Two CPU processes with gloo give what one process gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hydra.utils import get_object
from torch.distributed.device_mesh import DeviceMesh

from everclip.backbones.open_clip import OpenClip
from everclip.config.catalogue import read_option
from everclip.data.loading import OrderedBatches, SeededBatches
from everclip.errors import ConfigError
from everclip.methods.base import Method
from everclip.metrics.retrieval import DIAGNOSTICS
from everclip.runs.folder import RunFolder
from everclip.runs.scores import table_of
from everclip.training.checkpoint import load_session
from everclip.types import Indices
from tests.conftest import NAMES, OWN, run_in
from tests.correct import correct
from tests.test_kinds import KINDS, run_kind
from tests.two_processes import DIVIDED, ODD, WORDS, text_gradient


def one_per_trait(names: Sequence[str]) -> list[str]:
    """Methods, the first ones, that take among them each value of the traits declared in `Method`; none too many."""
    declared, chosen = dict[str, set[tuple[str, object]]](), list[str]()
    for name in names:
        kind = get_object(read_option("method", name, own=OWN)["_target_"])
        values = ((trait, getattr(kind, trait)) for trait in Method.__annotations__)
        declared[name] = {(trait, value) for trait, value in values if isinstance(value, Hashable)}
        if not declared[name] <= set().union(*(declared[other] for other in chosen)):
            chosen.append(name)
    for name in chosen[1:]:
        rest = [other for other in chosen if other != name]
        chosen = rest if declared[name] <= set().union(*(declared[other] for other in rest)) else chosen
    return chosen


FEW = one_per_trait(sorted(NAMES, key=lambda name: name != "cpe_clip"))


def methods(names: Sequence[str]) -> pytest.MarkDecorator:
    """Parametrises a test over methods; all but one per trait are left to `make test-all`."""
    marked = [pytest.param(name, marks=[] if name in FEW else pytest.mark.everything) for name in names]
    return pytest.mark.parametrize("method", marked)


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """Folder of the runs on two processes, `<strategy>/<method>`, that the selected tests look at."""
    folder = tmp_path_factory.mktemp("two")
    selected = [item for item in request.session.items if isinstance(item, pytest.Function)]
    compared = [i.callspec.params["method"] for i in selected if i.originalname == "test_two_processes_equal_one"]
    divided = [i.callspec.params["method"] for i in selected if i.originalname.startswith("test_divided_weights")]
    kinds = [i.callspec.params["kind"] for i in selected if i.originalname == "test_every_kind_of_sample_is_shared"]
    runs = [f"ddp/{name}" for name in dict.fromkeys(compared + divided)] + [f"fsdp/{name}" for name in divided]
    runs += [f"kind/{name}" for name in kinds]
    command = [sys.executable, "-m", "tests.two_processes", str(folder), str(cache_dir), *runs]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("two_processes")
@methods(NAMES)
def test_two_processes_equal_one(tmp_path: Path, cache_dir: Path, together: Path, method: str) -> None:
    one = run_in(tmp_path / "one", cache_dir, *WORDS, f"method={method}")
    two = RunFolder(together / "ddp" / method)
    assert two.read_run()["devices"] == 2
    assert (one.path / "counts.csv").read_text() == (two.path / "counts.csv").read_text()
    for ours, theirs in zip(two.read_sessions(), one.read_sessions(), strict=True):
        for task, other in zip(ours["tasks"], theirs["tasks"], strict=True):
            assert abs(correct(task) - correct(other)) <= 1
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-2, abs=1e-4)
    alone, shared = load_session(one.checkpoint(1))[0], load_session(two.checkpoint(1))[0]
    assert alone.keys() == shared.keys()
    if one.read_sessions()[0]["train_steps"] == 0:
        assert (one.path / "accuracy_matrix.csv").read_bytes() == (two.path / "accuracy_matrix.csv").read_bytes()
    for name in alone if method == "cpe_clip" else ():
        torch.testing.assert_close(shared[name], alone[name], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.xdist_group("two_processes")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sample_is_shared(tmp_path: Path, cache_dir: Path, together: Path, kind: str) -> None:
    one, two = run_kind(tmp_path, cache_dir, kind, *ODD), RunFolder(together / "kind" / kind / "run")
    assert two.read_run()["devices"] == 2
    for ours, theirs in zip(two.read_sessions(), one.read_sessions(), strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-4)
    before, after = table_of(one.read_sessions()), table_of(two.read_sessions())
    assert before.names == after.names
    small = {m.key.removeprefix("last_") for m in DIAGNOSTICS} - {"neighbour_overlap"}  # numbers of about 1, not in %
    for name in before.names:
        tolerance = 0.01 if name in small else 10
        assert after.matrix(name) == pytest.approx(before.matrix(name), abs=tolerance, nan_ok=True)


@pytest.mark.slow
@pytest.mark.xdist_group("two_processes")
@methods(DIVIDED)
def test_divided_weights_give_what_whole_ones_give(together: Path, method: str) -> None:
    whole, divided = RunFolder(together / "ddp" / method), RunFolder(together / "fsdp" / method)
    assert (divided.path / "counts.csv").read_text() == (whole.path / "counts.csv").read_text()
    for ours, theirs in zip(divided.read_sessions(), whole.read_sessions(), strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-4)
        assert [correct(task) for task in ours["tasks"]] == [correct(task) for task in theirs["tasks"]]
    adapted, expected = load_session(divided.checkpoint(1))[0], load_session(whole.checkpoint(1))[0]
    assert adapted.keys() == expected.keys()
    for name in adapted:
        torch.testing.assert_close(adapted[name], expected[name], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.xdist_group("two_processes")
def test_every_process_keeps_its_part_of_divided_weights(together: Path) -> None:
    first, second = (torch.load(together / f"sizes_{rank}.pt") for rank in range(2))
    assert first["own"] + second["own"] == first["all"]
    assert 0.45 < first["own"] / first["all"] < 0.55


@pytest.mark.slow
@pytest.mark.xdist_group("two_processes")
def test_methods_that_read_whole_weights_are_refused(together: Path) -> None:
    assert (together / "refusal.txt").read_text().startswith("trainer.strategy=fsdp cannot divide the weights of this")


def test_weights_are_divided_where_some_are_frozen_only(tiny: Callable[[], OpenClip]) -> None:
    backbone = tiny()
    backbone.requires_grad_(True)
    with pytest.raises(ConfigError, match="this method trains all; use"):
        backbone.shard_blocks(cast(DeviceMesh, None))


@pytest.mark.slow
@pytest.mark.xdist_group("two_processes")
def test_a_loss_over_the_batch_has_the_gradient_of_one_process(together: Path) -> None:
    torch.testing.assert_close(torch.load(together / "gradient.pt"), text_gradient((slice(0, 5),)))


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


class Pairs:
    """Twice the same picture, in batches of any size."""

    steps = 3

    def __call__(self, stream: np.random.Generator, size: int) -> Indices:
        return np.repeat(stream.integers(1000, size=size // 2), 2)


def test_batches_may_be_drawn_instead_of_shuffled() -> None:
    whole = SeededBatches(10, 4, (5,), steps=7, draws=Pairs())
    batches = list(whole)
    assert whole.steps_per_epoch == 3
    assert all(len(batch) == 4 and batch[::2] == batch[1::2] for batch in batches)
    assert len({tuple(batch) for batch in batches}) == 7  # a later pass draws anew
    assert list(SeededBatches(10, 4, (5,), steps=7, start=5, draws=Pairs())) == batches[5:]
    shares = [SeededBatches(10, 4, (5,), steps=7, rank=r, world_size=3, draws=Pairs()) for r in range(3)]
    together = [sorted(picture for part in parts for picture in part) for parts in zip(*shares, strict=True)]
    assert together == [sorted(batch) for batch in batches]
    assert {sum(share.weight(step) for share in shares) for step in range(7)} == {3.0}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_shares_hold_every_picture_once(world_size: int) -> None:
    shares = [list(OrderedBatches(10, 3, rank, world_size)) for rank in range(world_size)]
    assert sorted(picture for share in shares for batch in share for picture in batch) == list(range(10))
    assert len({len(share) for share in shares}) == 1
