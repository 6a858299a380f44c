"""What a run would cost, from a few of its steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig, open_dict

from everclip.commands import plan as planning
from everclip.commands.plan import STEPS, Stopwatch, plan, seconds
from everclip.runs.folder import RunFolder
from everclip.sweeps import plans
from everclip.sweeps.plans import Estimate
from everclip.sweeps.sweep import Job
from everclip.training.phases import Budget, Training, Wish
from tests.conftest import SMALL


class Follower:
    """A watcher that counts."""

    def __init__(self) -> None:
        self.steps = 0

    def start(self, steps: int, steps_per_epoch: int) -> None:
        pass

    def after_step(self, *given: Any) -> None:
        self.steps += 1


@pytest.mark.parametrize(("steps", "taken", "left"), [(100, STEPS, 90 * 0.5), (STEPS, STEPS, 0.0), (3, 3, 0.0)])
def test_the_first_steps_tell_what_the_others_last(
    monkeypatch: pytest.MonkeyPatch, steps: int, taken: int, left: float
) -> None:
    clock = iter(0.5 * tick for tick in range(1000))
    monkeypatch.setattr(planning.time, "monotonic", lambda: next(clock))
    follower = Follower()
    watch = Stopwatch(follower)
    watch.start(steps, 1)
    try:
        for _ in range(steps):
            watch.after_step({}, 0.1, dict, Wish.NONE)
    except planning._EnoughError:
        pass
    assert follower.steps == taken
    assert watch.left == left


def test_later_sessions_are_taken_to_be_like_the_second() -> None:
    def images(count: int, is_base: bool = False) -> Any:
        return SimpleNamespace(train=range(count), samples=range(count), num_samples=count, is_base=is_base)

    sequence: Any = SimpleNamespace(
        sessions=[images(count, count == 100) for count in (100, 20, 30)],
        tasks=[images(count) for count in (50, 10, 10)],
        evaluated=lambda session: range(session + 1),
    )
    records = [
        {"index": 0, "train_images": 100, "train_seconds": 3.0, "eval_images_per_second": 50.0},
        {"index": 1, "train_images": 20, "train_seconds": 2.0, "eval_images_per_second": 20.0},
    ]
    training: Any = Training(Budget(1, 10), Budget(2, 10, max_steps=5), None, None)  # type: ignore[arg-type]  # unused
    found = [seconds(sequence, training, records, {0: 7.0, 1: 6.0}, index) for index in range(3)]
    # Of the third session's 6 steps 5 are taken, of the second's 4 all.
    assert found == [3 + 7 + 50 / 50, 2 + 6 + 60 / 20, 2 * 30 / 20 + 6 * 5 / 4 + 70 / 20]


@pytest.mark.slow
def test_a_plan_leaves_an_estimate_and_nothing_else(
    compose: Callable[..., DictConfig], run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    words = ("method=finetune", "train.batch_size=2")
    config = compose(*SMALL, *words)
    hydra, folder = config.hydra, tmp_path / "planned" / "seed0"
    with open_dict(config):
        del config["hydra"]
    hydra.runtime.output_dir = str(folder)
    plan(config, hydra)
    assert [path.name for path in folder.parent.rglob("*")] == ["plan.json"]
    (line, total) = plans.lines([Job(str(folder), []), Job(str(folder.with_name("seed1")), [])])
    assert line.startswith("2 x ")
    assert total.startswith("2 of 2 runs: ")
    real = run(*words, plots=True)
    sizes = sum(path.stat().st_size for path in real.path.rglob("*") if path.is_file()) / 1e6
    told = Estimate(**plans.json.loads((folder.parent / "plan.json").read_text()))
    assert (told.devices, told.device) == (1, "cpu")
    assert told.disk_mb == pytest.approx(sizes, rel=0.1)


def test_what_could_not_be_measured_is_said(tmp_path: Path) -> None:
    jobs = [Job(f"{tmp_path}/shapes/{method}/tiny/abc/seed{seed}", []) for method in ("ncm", "er") for seed in range(2)]
    plans.write(Path(jobs[0].folder), Estimate(seconds=1800, devices=4, device="cuda", memory_mb=900.4, disk_mb=2.04))
    assert plans.lines(jobs) == [
        "2 x ncm-shapes (abc): each 30.0 min, 2.00 GPU-hours on 4, 900 MB of memory each, 2.0 MB on disk",
        "2 x er-shapes (abc): not known",
        "2 of 4 runs: 4.00 device-hours, 60.0 min one after the other, 4 MB on disk",
    ]
