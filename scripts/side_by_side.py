"""Measures of subjects that take turns, for the other scripts."""

from __future__ import annotations

import ctypes
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from everclip.training.phases import PhaseState, Wish

Action = Callable[[], object]
Times = list[tuple[float, float]]  # by the clock and on processors


def timed(action: Action) -> tuple[float, float]:
    """Seconds of an action by the clock and on processors, until all work given to a GPU is done."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turns(actions: Mapping[str, Action], repeats: int) -> dict[str, Times]:
    """What `timed` gives for each action, one after the other, again and again."""
    times: dict[str, Times] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            times[name].append(timed(action))
    return times


def seconds(action: Action, repeats: int) -> float:
    """Median time of an action after one call to warm up."""
    action()
    return statistics.median(timed(action)[0] for _ in range(repeats))


def peak_memory(action: Action, device: str = "cpu") -> float:
    """MB above what is held before: of the GPU's allocator, or of this process's resident set."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed earlier would hide the peak
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark falls to what is resident now
    resident = _highest_resident()
    action()
    return (_highest_resident() - resident) * 1024 / 1e6


def _highest_resident() -> int:
    """Kilobytes: the highest mark of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


class Stepped:
    """A training loop in a thread of its own that takes one step per call; it calls what it is given after each."""

    def __init__(self, loop: Callable[[Action], object]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        threading.Thread(target=self._run, args=(loop,), daemon=True).start()

    def _run(self, loop: Callable[[Action], object]) -> None:
        self._go.acquire()
        try:
            loop(self._pause)
        except BaseException as error:  # noqa: BLE001 (raised where the step was asked for)
            self._error = error
        self._done.release()

    def _pause(self) -> None:
        self._done.release()
        self._go.acquire()

    def __call__(self) -> None:
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error


class Endless:
    """Batches of a loader without end; a call when the step on one is over."""

    def __init__(self, loader: DataLoader[Any], step: Action) -> None:
        self._loader, self._step = loader, step

    def __iter__(self) -> Iterator[Any]:
        while True:
            for batch in self._loader:
                yield batch
                self._step()

    def __len__(self) -> int:
        return len(self._loader)


class Following:
    """Follows a phase of ours, with calls when it starts and after each step."""

    wish = Wish.NONE

    def __init__(self, step: Action, start: Action = lambda: None) -> None:
        self._step, self._start = step, start

    def start(self, steps: int, steps_per_epoch: int) -> None:
        """After pictures were encoded."""
        self._start()

    def ready(self) -> None:
        """Nothing to do."""

    def after_step(self, losses: dict[str, float], lr: float, state: Callable[[], PhaseState], wish: Wish) -> None:
        """A step's end."""
        self._step()
