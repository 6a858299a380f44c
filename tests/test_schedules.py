from __future__ import annotations

import math

import pytest

from everclip.training.schedules import Schedule


def test_constant() -> None:
    assert [Schedule().factor(i, 10) for i in (0, 9, 50)] == [1, 1, 1]


def test_cosine_ends_at_final() -> None:
    schedule = Schedule(decay="cosine", final=0.1)
    assert [schedule.factor(i, 10) for i in (0, 5, 10, 99)] == pytest.approx([1, 0.55, 0.1, 0.1])


def test_a_quarter_of_a_cosine_is_that_of_coda_prompt() -> None:
    # CosineSchedule of GT-RIPL/CODA-Prompt @ 6417d4f, utils/schedulers.py, with 20 epochs.
    official = [math.cos((99 * math.pi * epoch) / (200 * (20 - 1))) for epoch in range(20)]
    schedule = Schedule(interval="epoch", decay="quarter_cosine")
    assert [schedule.factor(epoch, 20) for epoch in range(20)] == pytest.approx(official)
    assert schedule.factor(0, 1) == 1


def test_linear_after_warmup() -> None:
    schedule = Schedule(warmup=2, warmup_start=0.5, decay="linear")
    assert [schedule.factor(i, 6) for i in range(7)] == pytest.approx([0.5, 0.75, 1, 0.75, 0.5, 0.25, 0])


def test_a_step_comes_at_its_share() -> None:
    schedule = Schedule(warmup=2, decay="step", final=0.1, drop=0.6)
    assert [schedule.factor(i, 10) for i in range(11)] == pytest.approx([0, 0.5, *4 * [1], *5 * [0.1]])


@pytest.mark.parametrize(("warmup", "steps"), [(2, 3), (100, 1000)])
def test_a_warmup_that_ends_inside_is_that_of_zscl(warmup: int, steps: int) -> None:
    # cosine_lr of Thunderbeee/ZSCL @ b96e714, mtil/src/utils.py.
    official = [
        (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
        for step in range(steps + 1)
    ]
    schedule = Schedule(warmup=warmup, warmup_offset=1, decay="cosine", length=steps)
    assert [schedule.factor(step, 5) for step in range(steps + 1)] == pytest.approx(official)


def test_a_fixed_length_wins_over_the_phases() -> None:
    schedule = Schedule(decay="linear", length=100)
    assert schedule.factor(50, 5) == pytest.approx(0.5)


def test_the_schedule_of_prompt_learning_is_dassls() -> None:
    # ConstantWarmupScheduler before torch's CosineAnnealingLR in KaiyangZhou/Dassl.pytorch @ c61a1b5, MaPLe's settings.
    official = [1e-5, 3.5e-3, 3.1658e-3, 2.2908e-3, 1.2092e-3]
    schedule = Schedule(interval="epoch", warmup=1, warmup_start=1e-5 / 3.5e-3, decay="cosine", overrun=1)
    assert [3.5e-3 * schedule.factor(epoch, 5) for epoch in range(5)] == pytest.approx(official, rel=1e-4)
