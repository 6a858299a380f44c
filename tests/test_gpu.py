"""What a GPU must keep of what holds on a CPU; EVERCLIP_TEST_ACCELERATOR=cpu tries the tests themselves without one."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from everclip.errors import Preempted
from everclip.runs.folder import RunFolder
from everclip.training.monitor import Monitor

pytestmark = pytest.mark.gpu
ACCELERATOR = os.environ.get("EVERCLIP_TEST_ACCELERATOR", "gpu")
WORDS = ("method=cpe_clip", "max_sessions=2", f"trainer.accelerator={ACCELERATOR}")
Run = Callable[..., RunFolder]


def last(folder: RunFolder) -> float:
    return float(folder.read_summary()["last_accuracy"])


def test_a_run_learns_what_it_learns_on_a_cpu(run: Run) -> None:
    on_cpu = run(*WORDS, "trainer.accelerator=cpu", "trainer.precision=32-true", folder="cpu")
    here = run(*WORDS, "trainer.precision=32-true", folder="gpu")
    assert last(here) == pytest.approx(last(on_cpu), abs=1)
    assert here.read_run()["device"].startswith("cpu" if ACCELERATOR == "cpu" else "cuda")


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("method", ["cpe_clip", "finetune", "zscl", "gda", "coop"])
def test_mixed_precision_learns_about_the_same(method: str, precision: str, run: Run) -> None:
    if ACCELERATOR == "cpu" and precision == "16-mixed":
        pytest.skip("a CPU has no fp16 training")
    words = (*WORDS, f"method={method}")
    exact = run(*words, "trainer.precision=32-true", folder="exact")
    mixed = run(*words, f"trainer.precision={precision}", folder="mixed")
    assert last(mixed) == pytest.approx(last(exact), abs=5)


def test_a_stopped_run_goes_on_as_if_it_had_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = run(*WORDS, folder="straight")
    monkeypatch.setattr(Monitor, "stop", property(lambda self: self.step == 3))
    with pytest.raises(Preempted):
        run(*WORDS)
    monkeypatch.undo()
    again = run(*WORDS)
    assert [record["losses"] for record in again.read_sessions()] == [
        record["losses"] for record in straight.read_sessions()
    ]
