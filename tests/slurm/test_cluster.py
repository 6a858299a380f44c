"""Runs on a real SLURM: told to stop, pushed aside and put back, they end with the numbers of undisturbed ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from everclip.runs.folder import RunFolder
from tests.correct import correct
from tests.slurm.conftest import ROOT, Cluster, runs_below, wait_for

pytestmark = pytest.mark.slurm
STEPS = ("method=finetune", "train.batch_size=4", "train.base.epochs=40", "checkpoint.every_n_steps=20")


def in_training(outputs: Path, seed: int) -> bool:
    """Whether a run has saved some steps of a session."""
    run = runs_below(outputs).get(("finetune", f"seed{seed}"))
    return run is not None and run.progress.is_file()


def ends(run: RunFolder) -> list[tuple[str | None, str | None]]:
    """How each start of a run ended, and why."""
    return [(attempt.get("state"), attempt.get("reason")) for attempt in run.read_run()["attempts"]]


def numbers(run: RunFolder) -> list[object]:
    """Everything a run found out, without what depends on the clock."""
    clock = ("train_seconds", "eval_seconds", "eval_images_per_second", "peak_memory_mb")
    return [{key: value for key, value in record.items() if key not in clock} for record in run.read_sessions()]


def test_disturbed_runs_go_on_and_end_with_the_same_numbers(cluster: Cluster, tmp_path: Path) -> None:
    words = (*STEPS, "seed=0,1,2")
    array = cluster.submit(tmp_path / "queue", *words)
    disturbances = [
        ("scancel", "--signal=USR1", f"{array}_0"),
        ("scontrol", "requeue", f"{array}_1"),
        ("sbatch", "--partition=urgent", "--nodes=2", "--ntasks=4", "--output=/dev/null", "--wrap=true"),
    ]
    for seed, disturbance in enumerate(disturbances):
        wait_for(f"training of seed {seed}", lambda seed=seed: in_training(tmp_path / "queue", seed))
        cluster.run(*disturbance)
    cluster.everclip(tmp_path / "here", "-m", *words)
    wait_for("an empty queue", lambda: not cluster.queue())
    disturbed, alone = runs_below(tmp_path / "queue"), runs_below(tmp_path / "here")
    assert disturbed.keys() == alone.keys()
    for (_, seed), run in disturbed.items():
        assert ends(run)[0] == ("preempted", "SIGUSR1" if seed == "seed0" else "SIGTERM")
        assert ends(run)[-1] == ("finished", None)
        assert "in phase 1 of the next one after" in (run.path / "run.log").read_text()
        assert numbers(run) == numbers(alone["finetune", seed])
    again = cluster.everclip(tmp_path / "queue", "-m", "hydra/launcher=slurm", *words)
    assert again.startswith("3 runs: 3 finished, 0 in the queue, 0 to submit\n")
    assert cluster.queue() == {}


def test_a_run_saves_before_its_time_limit_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    limit = ("hydra.launcher.time=2", "hydra.launcher.warning=30", "train.base.epochs=100000")
    array = cluster.submit(tmp_path, *STEPS, "seed=0", *limit)
    wait_for("a run", lambda: runs_below(tmp_path))
    (run,) = runs_below(tmp_path).values()
    wait_for("its second start", lambda: "resuming" in (run.path / "run.log").read_text())
    cluster.run("scancel", array)
    wait_for("an empty queue", lambda: not cluster.queue())
    assert ends(run) == [("preempted", "SIGUSR1"), ("preempted", "SIGTERM")]


def test_two_nodes_equal_one_process(cluster: Cluster, tmp_path: Path) -> None:
    words = (*cluster.words, "method=finetune", "train.batch_size=8")
    template = ("sbatch", "--wait", f"--output={tmp_path}/log", ROOT / "scripts" / "slurm" / "run.sbatch")
    cluster.run(*template, *words, f"paths.outputs={tmp_path}/two", "trainer.accelerator=cpu")
    cluster.everclip(tmp_path / "one", *words)
    (two,), (one,) = (runs_below(tmp_path / name).values() for name in ("two", "one"))
    assert two.read_run()["devices"] == 2
    assert (two.path / "counts.csv").read_text() == (one.path / "counts.csv").read_text()
    for ours, theirs in zip(two.read_sessions(), one.read_sessions(), strict=True):
        for task, other in zip(ours["tasks"], theirs["tasks"], strict=True):
            assert abs(correct(task) - correct(other)) <= 1
