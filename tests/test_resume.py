"""A run that is interrupted anywhere ends as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from everclip.commands import execute
from everclip.digest import json_sha256
from everclip.errors import ConfigError, MemoryFullError, Preempted
from everclip.methods.cpe_clip import CpeClip
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import load_progress, load_session, save_session
from everclip.training.interruption import StopRequest
from everclip.training.monitor import Monitor
from everclip.training.runner import Runner
from everclip.types import Batch, Phase

Run = Callable[..., RunFolder]
FILES = ("accuracy_matrix.csv", "counts.csv", "train.csv")
CSV = ("logger=csv", "trainer.log_every=1", "train.base.epochs=2")


def assert_equal(first: RunFolder, second: RunFolder) -> None:
    """The same numbers everywhere, but for times."""
    for name in FILES:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name
    ours, theirs = first.read_sessions(), second.read_sessions()
    assert [r["losses"] for r in ours] == [r["losses"] for r in theirs]
    assert [r["train_steps"] for r in ours] == [r["train_steps"] for r in theirs]
    tensors, others = (load_session(f.checkpoint(len(ours) - 1))[0] for f in (first, second))
    assert [n for n in tensors if not torch.equal(tensors[n], others[n])] == []


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("step", [0, 1, 5], ids=["base_first", "base_epoch_end", "session_1"])
def test_a_stop_inside_a_phase_changes_nothing(
    run: Run, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, optimizer: str
) -> None:
    words = (*CSV, f"optimizer={optimizer}", "optimizer.lr=0.01")
    whole = finished(*words)
    monkeypatch.setattr(Monitor, "stop", property(lambda self: self.step == step))
    with pytest.raises(Preempted):
        run(*words, folder="stopped")
    stopped = RunFolder(tmp_path / "stopped")
    assert stopped.state == "preempted"
    _, progress, _ = load_progress(stopped.progress)
    assert progress.global_step == step + 1
    monkeypatch.setattr(Monitor, "stop", property(lambda self: False))
    resumed = run(*words, folder="stopped")
    assert not resumed.progress.is_file()
    assert_equal(whole, resumed)


@pytest.mark.parametrize("step", [3, 4, 7], ids=["phase_end", "between_phases", "session_end"])
def test_random_numbers_go_on_where_a_phase_ended(
    run: Run, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def phases(self: CpeClip, session: Any) -> tuple[Phase, ...]:
        return Phase("first"), Phase("second")

    def loss(self: CpeClip, batch: Batch) -> dict[str, torch.Tensor]:
        noise = torch.rand_like(self.prompts)
        return {"cross_entropy": self.cross_entropy(batch, self.classes), "noise": (noise * self.prompts).sum()}

    def end_session(self: CpeClip, session: Any, extract: Any) -> None:
        with torch.no_grad():
            self.prompts += 0.01 * torch.randn_like(self.prompts)

    for hook in (phases, loss, end_session):
        monkeypatch.setattr(CpeClip, hook.__name__, hook)
    words = (*CSV, "max_sessions=2", "seed=5")  # a seed of its own: no other test shares the run of these hooks
    whole = finished(*words)
    if step == 4:  # nothing is saved but what is between the phases
        monkeypatch.setattr("everclip.training.runner.MINUTE", -1.0)
        monkeypatch.setattr("everclip.training.runner.Runner._meta", interrupt_second_save(Runner._meta))
    else:
        monkeypatch.setattr(Monitor, "stop", property(lambda self: self.step == step))
    with pytest.raises((Preempted, KeyboardInterrupt)):
        run(*words, folder="stopped")
    _, progress, _ = load_progress(RunFolder(tmp_path / "stopped").progress)
    assert progress.global_step == (step if step == 4 else step + 1)
    monkeypatch.setattr(Monitor, "stop", property(lambda self: False))
    monkeypatch.setattr("everclip.training.runner.MINUTE", 60.0)
    assert_equal(whole, run(*words, folder="stopped"))


def interrupt_second_save(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Runner._meta`, which every save asks; the second call ever stops the run."""
    calls: list[int] = []

    def wrapper(self: Runner, session: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, session)

    return wrapper


def test_a_killed_run_goes_on_from_the_last_saved_step(
    run: Run, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, whole = (*CSV, "checkpoint.every_n_steps=2"), finished(*CSV)
    original: Any = Monitor.after_step

    def die(self: Monitor, *arguments: Any) -> None:
        original(self, *arguments)
        if self.step == 7:
            raise KeyboardInterrupt  # as little is saved as by a kill

    monkeypatch.setattr(Monitor, "after_step", die)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(*words, folder="killed")
    killed = RunFolder(tmp_path / "killed")
    _, progress, _ = load_progress(killed.progress)
    assert (progress.session, progress.state.step, progress.global_step) == (1, 2, 6)
    monkeypatch.setattr(Monitor, "after_step", original)
    steps: list[int] = []
    monkeypatch.setattr(CpeClip, "after_step", lambda self: steps.append(1))
    assert_equal(whole, run(*words, folder="killed"))
    assert len(steps) == 6  # 2 of session 1, 4 of session 2


@pytest.mark.parametrize("last", [1, 2])
def test_a_trained_session_is_only_evaluated(
    run: Run, finished: Run, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    whole = finished(*CSV)
    original: Any = Runner._evaluate

    def die(self: Runner, session: Any, trained: Any) -> None:
        if session.index == last:
            self._folder.progress.write_bytes(b"left by a kill right after the checkpoint")
            raise Preempted("SIGTERM")
        original(self, session, trained)

    monkeypatch.setattr(Runner, "_evaluate", die)
    with pytest.raises(Preempted):
        run(*CSV, folder="stopped")
    monkeypatch.setattr(Runner, "_evaluate", original)
    sessions: list[int] = []
    begin = CpeClip.begin_session
    monkeypatch.setattr(CpeClip, "begin_session", lambda self, s, e: (sessions.append(s.index), begin(self, s, e))[1])
    resumed = run(*CSV, folder="stopped")
    assert_equal(whole, resumed)
    assert sessions == list(range(last + 1, 3))
    assert not resumed.progress.is_file()


@pytest.mark.parametrize("content", [b"", b"nonsense", "foreign"], ids=["empty", "nonsense", "foreign"])
def test_a_damaged_record_of_progress_costs_its_session(
    run: Run, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    whole = finished(*CSV)
    monkeypatch.setattr(Monitor, "stop", property(lambda self: self.step == 5))
    with pytest.raises(Preempted):
        run(*CSV, folder="stopped")
    monkeypatch.setattr(Monitor, "stop", property(lambda self: False))
    path = RunFolder(tmp_path / "stopped").progress
    path.write_bytes(whole.checkpoint(2).read_bytes() if content == "foreign" else content)
    resumed = run(*CSV, folder="stopped")
    assert f"{path}" in (resumed.path / "run.log").read_text()
    assert_equal(whole, resumed)


def test_what_a_killed_process_was_writing_is_removed(run: Run) -> None:
    folder = run("method=zero_shot", "max_sessions=1")
    folder.update_run(state="running")
    half = [folder.path / ".run.json.1.tmp", folder.path / "checkpoints" / ".session_01.safetensors.1.tmp"]
    for path in half:
        path.write_bytes(b"half")
    run("method=zero_shot", "max_sessions=1")
    assert not any(path.exists() for path in half)


def test_another_number_of_threads_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    folder.update_run(threads=1, commit="a")
    folder.write_sessions([{"index": 0, "tasks": []}], 1)
    execute._refuse_other_origin(folder, {"threads": 1, "commit": "a"})
    assert caplog.messages == []
    execute._refuse_other_origin(folder, {"threads": 2, "commit": "a"})
    told = "begun with this number of threads, which moves roundings: 1, going on with 2"
    assert caplog.messages == [told]


def test_other_data_or_weights_are_refused(run: Run) -> None:
    words = ("method=zero_shot", "max_sessions=1")
    folder = run(*words)
    folder.update_run(state="failed", fingerprint="0" * 64)
    with pytest.raises(ConfigError, match=r"sequence's data changed from 0000.* or begin anew with restart=true"):
        run(*words)
    assert run(*words, "restart=true").state == "finished"
    assert run(*words).read_run()["fingerprint"] != "0" * 64


def make_old(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the checkpoints as they were before they named the records that they follow by a digest."""
    records = folder.read_sessions()
    monkeypatch.setattr("everclip.training.checkpoint.FORMAT", 3)
    for session in range(len(records)):
        tensors, meta = load_session(folder.checkpoint(session))
        assert meta.pop("follows") == json_sha256(records[:session])
        assert "records" not in meta
        del meta["format"]
        save_session(folder.checkpoint(session), tensors, meta | {"records": records[:session]})
    monkeypatch.undo()


@pytest.mark.parametrize("old", [False, True])
def test_a_changed_record_is_evaluated_again(
    run: Run, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    folder = RunFolder(shutil.copytree(finished(*CSV).path, tmp_path / "run"))
    if old:
        make_old(folder, monkeypatch)
    before = folder.read_sessions()
    path = folder.path / "sessions.jsonl"
    lines = path.read_text().splitlines()
    changed = json.loads(lines[1]) | {"accuracy": 99.9}
    path.write_text("\n".join([lines[0], json.dumps(changed), lines[2]]) + "\n")
    folder.update_run(state="failed")
    steps: list[int] = []
    monkeypatch.setattr(CpeClip, "after_step", lambda self: steps.append(1))
    again = run(*CSV).read_sessions()
    assert [record["accuracy"] for record in again] == [record["accuracy"] for record in before]
    assert "line 2 is damaged, changed or out of order" in (folder.path / "run.log").read_text()
    assert len(steps) == 4  # of session 2 alone: session 1 is only evaluated


def test_a_checkpoint_that_follows_other_records_is_not_used(
    run: Run, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(shutil.copytree(finished(*CSV).path, tmp_path / "run"))
    first, *_ = folder.read_sessions()
    folder.write_sessions([first | {"accuracy": 99.9}], 3)
    folder.update_run(state="failed")

    def stop(self: Runner, *_: Any) -> None:
        raise Preempted

    monkeypatch.setattr(Runner, "_train", stop)
    with pytest.raises(Preempted):
        run(*CSV)
    told = (folder.path / "run.log").read_text()
    assert f"{folder.checkpoint(1)} was written after other sessions than those recorded" in told


def test_signals_are_noted_inside_and_raise_outside() -> None:
    request, reached = StopRequest(), list[str]()
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    request.install()
    try:
        with pytest.raises(Preempted, match="SIGUSR1"), request.deferred():  # noqa: PT012 (the place matters)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert request.name == "SIGUSR1"
            os.kill(os.getpid(), signal.SIGTERM)  # asking twice changes nothing
            reached.append("end")
        with pytest.raises(Preempted), request.deferred():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)  # the second, and a Ctrl-C: now
            reached.append("never")
        assert reached == ["end"]
        fresh = StopRequest()
        fresh.install()
        with pytest.raises(Preempted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def test_micro_batches_change_only_the_rounding(run: Run, finished: Run) -> None:
    whole = finished(*CSV)
    parts = run(*CSV, "trainer.accumulate=3", folder="parts")
    first, second = (load_session(f.checkpoint(2))[0] for f in (whole, parts))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5)
    for ours, theirs in zip(whole.read_sessions(), parts.read_sessions(), strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-4)
        assert ours["train_steps"] == theirs["train_steps"]


def test_memory_that_runs_out_is_met_by_smaller_micro_batches(
    run: Run, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CpeClip.loss
    sizes: list[int] = []

    def hungry(self: CpeClip, batch: Batch) -> dict[str, torch.Tensor]:
        sizes.append(len(batch))
        if len(batch) > 16 and len(sizes) > 1:  # the second step of 32 does not fit
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, batch)

    whole = finished(*CSV)
    monkeypatch.setattr(CpeClip, "loss", hungry)
    with pytest.raises(MemoryFullError, match=r"32 pictures at once; trainer\.accumulate=2"):
        run(*CSV, "train.base.batch_size=32", folder="refused")
    sizes.clear()
    helped = run(*CSV, "trainer.auto_batch=true", folder="helped")
    assert sizes[:7] == [32, 16, 32, 16, 16, 8, 8]
    first, second = (load_session(f.checkpoint(2))[0] for f in (whole, helped))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5)


def test_a_run_begun_anew_says_that_it_runs_and_goes_on_when_put_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue starts the very same command again: it must not remove what the start before has done."""
    states: list[str | None] = []
    first = run("method=ncm", "max_sessions=1")
    original: Any = execute._run

    def watched(config: Any, hydra: Any, folder: RunFolder, *others: Any) -> None:
        states.append(folder.state)
        states.append("kept" if folder.checkpoint(0).is_file() else "removed")
        original(config, hydra, folder, *others)

    monkeypatch.setattr(execute, "_run", watched)
    run("method=ncm", "max_sessions=1", "restart=true")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run("method=ncm", "max_sessions=1", "restart=true")
    assert states == ["running", "removed", "running", "kept"]
    assert first.state == "finished"
