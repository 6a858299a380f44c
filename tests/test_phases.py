"""Phases that follow each other: prepared when they start, in groups of parameters, of a known length."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everclip.backbones.base import Backbone
from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.errors import ContractError, Preempted
from everclip.methods.base import Method
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import load_progress, save_progress
from everclip.training.engine import Engine
from everclip.training.monitor import Monitor
from everclip.training.phases import Budget, Length, PhaseState, Training, Wish, parameter_groups
from everclip.training.schedules import Schedule
from everclip.types import Batch, ParameterGroup, Phase, Session
from tests.conftest import run_in
from tests.methods.test_cpe_clip import make_session
from tests.self_training import WORDS, SelfTraining
from tests.test_resume import assert_equal

Run = Callable[..., RunFolder]
IMAGES = ArrayImages(np.zeros((9, 32, 32, 3), np.uint8), np.arange(9) % 3, "black")


@pytest.fixture(scope="module")
def whole(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    torch.set_num_threads(1)
    return run_in(tmp_path_factory.mktemp("self_training") / "whole", cache_dir, *WORDS)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int | None) -> None:
    monkeypatch.setattr(Monitor, "stop", property(lambda self: self.step == step))


@pytest.mark.parametrize(
    ("step", "phase"),
    [
        pytest.param(1, 0, id="first phase"),
        pytest.param(3, 0, id="end of the first"),
        pytest.param(4, 1, id="prepared phase"),
        pytest.param(7, 1, id="end of the prepared"),
        pytest.param(9, 2, id="phase after it"),
        pytest.param(14, 1, id="prepared phase of a later session"),
    ],
)
def test_a_stopped_run_goes_on_with_the_same_phases(
    run: Run, whole: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: int, phase: int
) -> None:
    stop_at(monkeypatch, step)
    with pytest.raises(Preempted):
        run(*WORDS, folder="stopped")
    _, progress, _ = load_progress(RunFolder(tmp_path / "stopped").progress)
    assert (progress.phase, progress.prepared) == (phase, phase == 1)
    stop_at(monkeypatch, step + 1)  # once more, one step later: what was laid over is saved whole again
    with pytest.raises(Preempted):
        run(*WORDS, folder="stopped")
    stop_at(monkeypatch, None)
    resumed = run(*WORDS, folder="stopped")
    assert_equal(whole, resumed)
    assert sorted(path.name for path in (resumed.path / "checkpoints").iterdir()) == [
        "session_00.safetensors",
        "session_01.safetensors",
    ]


@pytest.mark.parametrize("saved", [True, False], ids=["saved between", "begun anew"])
def test_a_run_killed_in_a_preparation_goes_on(
    run: Run, whole: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saved: bool
) -> None:
    def die(self: SelfTraining, *given: Any) -> Phase:
        self.layer.data += 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SelfTraining, "prepare", die)
        patch.setattr("everclip.training.runner.MINUTE", -1.0 if saved else 60.0)
        with pytest.raises(KeyboardInterrupt):
            run(*WORDS, folder="killed")
    assert RunFolder(tmp_path / "killed").progress.is_file() == saved
    assert_equal(whole, run(*WORDS, folder="killed"))


@pytest.mark.parametrize("content", [None, b"nonsense", "other phase"])
def test_a_prepared_phase_without_its_start_costs_the_session(
    run: Run, whole: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: Any
) -> None:
    stop_at(monkeypatch, 4)
    with pytest.raises(Preempted):
        run(*WORDS, folder="stopped")
    stop_at(monkeypatch, None)
    path = RunFolder(tmp_path / "stopped").phase_start
    if content is None:
        path.unlink()
    elif content == "other phase":
        tensors, begun, meta = load_progress(path)
        save_progress(path, tensors, replace(begun, phase=2), {k: v for k, v in meta.items() if k != "progress"})
    else:
        path.write_bytes(content)
    resumed = run(*WORDS, folder="stopped")
    assert f"{path}" in (resumed.path / "run.log").read_text()
    assert_equal(whole, resumed)


@pytest.mark.slow
@pytest.mark.xdist_group("two_processes")
def test_two_processes_prepare_the_same_and_go_on_with_it(whole: RunFolder, cache_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.self_training", str(tmp_path), str(cache_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-3000:]
    together, resumed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    assert (together.read_run()["devices"], len(resumed.read_run()["attempts"])) == (2, 2)
    assert_equal(together, resumed)
    assert together.read_sessions()[0]["losses"] == pytest.approx(whole.read_sessions()[0]["losses"], rel=1e-3)


class Sum(Method):
    """Minimises the sum of three values and of one that is frozen."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        for name in "abcd":
            self.register_parameter(name, nn.Parameter(torch.ones(()), requires_grad=name != "d"))
        self.rates: list[float] = []
        self.states: list[PhaseState] = []
        self.ends: list[int] = []

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"sum": self.a + self.b + self.c + self.d}

    wish = Wish.NONE  # it watches itself

    def start(self, steps: int, steps_per_epoch: int) -> None:
        pass

    def ready(self) -> None:
        pass

    def after_step(self, losses: Any = None, lr: float = 0.0, state: Any = None, wish: Wish = Wish.NONE) -> None:  # type: ignore[override]  # a watcher's
        if state is not None:
            self.rates.append(lr)
            self.states.append(state())

    def after_epoch(self) -> None:
        self.ends.append(len(self.states) + 1)


def sgd(groups: Any, lr: float = 0.2) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr)


def fit(method: Sum, engine: Engine, phase: Phase, resume: PhaseState | None = None) -> list[float]:
    session = replace(make_session(0), train=IMAGES)
    training = Training(Budget(2, 9), Budget(1, 1), sgd, Schedule(decay="linear"))
    engine.fit(method, session, phase, 0, training, method, resume)
    return [float(value.detach()) for value in (method.a, method.b, method.c, method.d)]


@pytest.mark.parametrize("passes", [True, False], ids=["through the backbone", "beside it"])
def test_a_whole_batch_that_nothing_divides_is_told(tiny: Any, caplog: pytest.LogCaptureFixture, passes: bool) -> None:
    method = Sum(tiny())
    method.couples_batch = True

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {"sum": method.a * method.encode_image(batch.images).sum()}

    phase = Phase(loss=loss if passes else None, parameters=(method.a,))
    fit(method, Engine(accelerator="cpu", accumulate=2), phase)
    assert ("trainer.accumulate=2 divided nothing in session 0, phase train" in caplog.text) is not passes


@pytest.mark.parametrize(
    ("lr", "first"), [pytest.param(None, 0.2, id="the optimiser's"), pytest.param(0.1, 0.1, id="the phase's")]
)
def test_groups_have_their_own_learning_rate_and_decay(
    tiny: Callable[[], OpenClip], engine: Engine, lr: float | None, first: float
) -> None:
    method = Sum(tiny().requires_grad_(False))
    groups = (ParameterGroup((method.b, method.d), lr=0.4), method.a, ParameterGroup((method.c,), weight_decay=0.5))
    found = fit(method, engine, Phase(lr=lr, parameters=groups))
    # Two steps, the second at half the rate.
    once = 1 - first * (1 + 0.5)
    assert found == pytest.approx([1 - 1.5 * first, 1 - 0.4 - 0.2, once - first / 2 * (1 + 0.5 * once), 1])
    assert method.rates == pytest.approx([first, first / 2])


def test_groups_go_on_inside_a_phase(tiny: Callable[[], OpenClip], engine: Engine) -> None:
    def phase(method: Sum) -> Phase:
        return Phase(parameters=(method.a, ParameterGroup((method.b,), 0.4), ParameterGroup((method.c,), None, 0.5)))

    method, later = Sum(tiny().requires_grad_(False)), Sum(tiny().requires_grad_(False))
    found = fit(method, engine, phase(method))
    for value, start in zip((later.a, later.b, later.c), (1 - 0.2, 1 - 0.4, 1 - 0.2 * 1.5), strict=True):
        value.data.fill_(start)
    assert fit(later, engine, phase(later), method.states[0]) == pytest.approx(found)
    assert later.rates == method.rates[1:]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        pytest.param(
            lambda a: {"rows": a.repeat(3)}, r"the loss rows of Sum in session 0, phase .* has shape \(3,\)", id="rows"
        ),
        pytest.param(
            lambda a: {"one": a[None]}, r"the loss one of Sum .* has shape \(1,\); a term is", id="a dimension"
        ),
        pytest.param(
            lambda a: {"sum": a, "plain": 1.0}, "the loss plain of Sum .* has type float", id="a plain number"
        ),
        pytest.param(
            lambda a: {"cut": a.detach()}, r"of Sum .* \(cut\) follows from nothing that is trained", id="cut off"
        ),
        pytest.param(lambda a: {}, r"of Sum .* \(no term\) follows from nothing", id="no term"),
    ],
)
def test_a_loss_that_cannot_be_trained_on_is_refused(
    tiny: Callable[[], OpenClip], engine: Engine, loss: Any, message: str
) -> None:
    method = Sum(tiny().requires_grad_(False))
    with pytest.raises(ContractError, match=message):
        fit(method, engine, Phase(loss=lambda batch: loss(method.a)))


def test_a_term_may_be_constant_beside_one_that_is_trained(tiny: Callable[[], OpenClip], engine: Engine) -> None:
    method = Sum(tiny().requires_grad_(False))
    assert fit(method, engine, Phase(loss=lambda batch: {"a": method.a, "d": method.d})) == pytest.approx(
        [0.7, 1, 1, 1]
    )


def test_groups_of_nothing_are_left_out() -> None:
    trained, frozen = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1), requires_grad=False)
    assert parameter_groups([frozen, ParameterGroup((trained, frozen), lr=0.0), ParameterGroup((frozen,))]) == [
        {"params": [trained], "lr": 0.0}
    ]


class Thrice:
    """Three batches of the first picture."""

    steps = 3

    def __call__(self, stream: np.random.Generator, size: int) -> Any:
        return np.zeros(size, np.int64)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        pytest.param(None, Length(5, 4, 3, 14), id="the session's, capped"),
        pytest.param(Phase(epochs=2), Length(2, 4, 3, 6), id="passes"),
        pytest.param(Phase(epochs=0), Length(0, 4, 3, 0), id="none"),
        pytest.param(Phase(batch_size=9), Length(5, 9, 1, 5), id="batch size"),
        pytest.param(Phase(data=IMAGES.subset([0])), Length(5, 4, 1, 5), id="pictures"),
        pytest.param(Phase(draws=Thrice(), epochs=1), Length(1, 4, 3, 3), id="draws"),
    ],
)
def test_how_long_a_phase_lasts(phase: Phase | None, expected: Length, tiny: Any, engine: Engine) -> None:
    training = Training(Budget(5, 4, max_steps=14), Budget(1, 1), sgd, Schedule())
    session: Session = replace(make_session(0), train=IMAGES)
    assert training.length(session, phase) == expected
    method = Sum(tiny().requires_grad_(False))
    engine.fit(method, session, phase or Phase(), 0, training, method)
    assert len(method.states) == expected.steps
    whole = range(expected.steps_per_epoch, expected.steps + 1, expected.steps_per_epoch)
    assert method.ends == sorted({*whole, expected.steps} - {0})
