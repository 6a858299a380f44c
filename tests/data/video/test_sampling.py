"""Which frames are shown: by the official formulas, worked out by hand or by their authors' code."""

from __future__ import annotations

import numpy as np
import pytest

from everclip.data.video.sampling import Dense, Fps, Sampling, Segment, Tsn


def times(count: int, fps: float = 10) -> np.ndarray:
    return np.arange(count) / fps


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("count", "middle", "before_middle"),
    [
        (100, [6, 18, 31, 43, 56, 68, 81, 93], [5, 18, 30, 43, 55, 68, 80, 93]),
        (5, [0, 0, 1, 2, 2, 3, 4, 4], [0, 0, 1, 1, 2, 3, 3, 4]),
        (8, list(range(8)), list(range(8))),
        (1, [0] * 8, [0] * 8),
    ],
)
def test_evaluation_shows_the_middle_of_each_part(count: int, middle: list[int], before_middle: list[int]) -> None:
    # Of 100 frames in 8: ViFi-CLIP int(12.5 i + 6.25), EZ-CLIP int(12.5 i + 5.75).
    assert Segment(8).view(times(count), 0, 1).tolist() == middle
    assert Tsn(8).view(times(count), 0, 1).tolist() == before_middle


def test_training_draws_a_frame_of_each_part() -> None:
    drawn = np.stack([Segment(8).draw(times(100), stream(seed)) for seed in range(300)])
    assert drawn.min(axis=0).tolist() == [12 * i for i in range(8)]
    assert drawn.max(axis=0).tolist() == [12 * i + 11 for i in range(8)]
    drawn = np.stack([Tsn(8).draw(times(100), stream(seed)) for seed in range(300)])
    assert drawn.min(axis=0).tolist() == [0, 12, 25, 37, 50, 62, 75, 87]
    assert drawn.max(axis=0).tolist() == [11, 24, 36, 49, 61, 74, 86, 99]


def test_short_clips_repeat_frames_in_order() -> None:
    assert Segment(8).draw(times(5), stream()).tolist() == [0, 1, 1, 2, 2, 3, 4, 4]  # rounded 5 i / 8, halves to even
    assert Segment(8).draw(times(8), stream()).tolist() == list(range(8))
    drawn = Tsn(8).draw(times(5), stream()).tolist()
    assert drawn == sorted(drawn)
    assert set(drawn) == set(range(5))


def test_dense_frames_keep_their_stride() -> None:
    sampling = Dense(4, stride=3)
    starts = {int(sampling.draw(times(12), stream(seed))[0]) for seed in range(50)}
    assert starts == {0, 1, 2}
    assert sampling.view(times(12), 0, 1).tolist() == [1, 4, 7, 10]
    assert [int(sampling.view(times(12), number, 3)[0]) for number in range(3)] == [0, 1, 2]
    assert sampling.view(times(10), 0, 1).tolist() == [0, 3, 6, 9]
    assert sampling.view(times(9), 0, 1).tolist() == [0, 3, 5, 8]  # too short: evenly spaced, rounded


def test_views_are_evenly_spaced() -> None:
    assert [Segment(2).view(times(80), n, 4).tolist() for n in range(4)] == [[5, 45], [15, 55], [25, 65], [35, 75]]
    assert [Tsn(2).view(times(80), n, 1).tolist() for n in range(1)] == [[19, 59]]


def test_fps_follows_the_clock_whatever_the_rate() -> None:
    assert Fps(4, fps=1).view(times(35), 0, 1).tolist() == [0, 10, 20, 30]
    assert Fps(3, fps=1).view(times(95), 0, 1).tolist() == [0, 40, 90]  # of 10 frames a second apart
    assert Fps(3, fps=1).view(times(5), 0, 1).tolist() == [0, 0, 0]
    uneven = np.array([0, 0.5, 0.6, 0.7, 1.0, 1.9, 3.2])
    assert Fps(4, fps=1).view(uneven, 0, 1).tolist() == [0, 0, 4, 5]  # of those on the screen at 0, 1, 2 and 3 s
    assert not Fps(3).random


@pytest.mark.parametrize("sampling", [Segment(8), Tsn(8), Dense(8, 4), Fps(8, fps=2)])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 31, 32, 300])
def test_frames_are_there_and_in_order(sampling: Sampling, count: int) -> None:
    when = times(count)
    chosen = [sampling.draw(when, stream(seed)) for seed in range(5)]
    chosen += [sampling.view(when, number, views) for views in (1, 3) for number in range(views)]
    for numbers in chosen:
        assert numbers.shape == (8,)
        assert (np.diff(numbers) >= 0).all()
        assert set(numbers.tolist()) <= set(sampling.pool(when).tolist()) <= set(range(count))
