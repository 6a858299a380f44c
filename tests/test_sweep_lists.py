"""What a sweep keeps beside its runs: what becomes of each job, and what each was composed to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from everclip.config import schema
from everclip.config.identity import digest
from everclip.sweeps import composed, launchers
from everclip.sweeps.sweep import Job, Sweep
from tests.test_sweeps import Everclip, everclip, four  # noqa: F401 (fixtures)


def test_a_sweep_stops_at_its_first_failure_where_asked_to(
    four: Sweep,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = launchers.LocalRuns(1, stop_on_error=True)
    assert (runs.run(four, range(4)), runs.stopped) == ({0: 0, 1: 137}, True)
    assert [job.state for job in Sweep.read(four.path).jobs] == ["completed", "failed", "waiting", "waiting"]
    assert caplog.messages[-1] == f"a run failed: 2 not started; `everclip-status {four.path}` shows them"


def test_a_sweep_lists_what_it_does_while_it_does_it(four: Sweep) -> None:  # noqa: F811
    lines = ["exit 75", f"cp {four.path} {four.cwd}/then", ""]
    four.jobs[:3] = [replace(job, words=[line]) for job, line in zip(four.jobs, lines, strict=False)]
    four.note({3: {"state": "completed"}})
    launchers.LocalRuns(1).run(four, range(3))
    then = json.loads(Path(four.cwd, "then").read_text())
    assert [job["state"] for job in then["jobs"]] == ["waiting", "in flight", "waiting", "completed"]
    assert then["process"]["pid"] == os.getpid()
    assert Sweep.read(four.path).process == {}


EDITING = r"""
cp "$EVERCLIP_COMPOSED" {place}/$(ls {place} | wc -l).yaml
sed -i s/label_smoothing:.*/label_smoothing:\ 0.5/ {place}/../mine/method/mine.yaml
"""


@pytest.mark.parametrize("words", [[], ["hydra.sweeper.max_batch_size=1"]], ids=["at once", "in batches"])
def test_files_edited_meanwhile_change_no_later_job(
    everclip: Everclip,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    (tmp_path / "mine/method").mkdir(parents=True)
    (tmp_path / "jobs").mkdir()
    finetune = (schema.conf_dir() / "method/finetune.yaml").read_text()
    assert "label_smoothing: 0.0\n" in finetune
    (tmp_path / "mine/method/mine.yaml").write_text(finetune)
    monkeypatch.setattr(launchers, "COMMAND", ("sh", "-c", EDITING.format(place=tmp_path / "jobs")))
    code, _, _ = everclip("--config-dir", f"{tmp_path}/mine", "-m", "method=mine", "seed=3,4", *words)
    jobs = [OmegaConf.load(path) for path in sorted((tmp_path / "jobs").iterdir())]
    assert (code, [job.seed for job in jobs]) == (0, [3, 4])
    assert [job.method.label_smoothing for job in jobs] == [0.0, 0.0]
    assert "label_smoothing: 0.5" in (tmp_path / "mine/method/mine.yaml").read_text()


def test_a_job_is_what_its_sweep_has_composed(
    everclip: Everclip,  # noqa: F811
    compose: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    composed_then = compose("check=true", "method=ewc", "optimizer.lr=1e-5", f"hydra.run.dir={tmp_path}/there")
    sweep = Sweep(tmp_path, [Job(f"{tmp_path}/there", [])], "/")
    composed.keep(sweep, 0, composed_then)
    monkeypatch.setenv(*composed.named(sweep, 0).popitem())
    code, out, error = everclip("method=no_such_method")
    assert (code, error) == (0, "")
    assert out.startswith("method    ewc: ")
    assert digest(composed.given()) == digest(composed_then)
    composed.path_of(sweep, 0).unlink()
    code, _, error = everclip("method=ewc")
    assert code == 2
    assert error.startswith(
        f"everclip: {tmp_path}/sweeps/{sweep.path.stem}/jobs/0.yaml: the settings of this job cannot"
    )
