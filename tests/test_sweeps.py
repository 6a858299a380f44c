"""Sweeps cannot lie: right folders, right number of processes, right numbers, whatever the jobs before them did."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from everclip.commands import run as cli
from everclip.commands import sequences
from everclip.errors import ConfigError
from everclip.reporting.console import as_mirrors, set_up_logging
from everclip.runs.again import quoted
from everclip.runs.folder import RunFolder
from everclip.sweeps import launchers, slurm
from everclip.sweeps.launchers import clean_environment, gpus_of, refuse_within
from everclip.sweeps.sweep import Job, Sweep, distinct
from hydra_plugins.everclip_launchers import resources
from tests.conftest import SMALL, run_in
from tests.correct import correct

QUICK = [*SMALL, "method=finetune", "max_sessions=2", "train.batch_size=8"]
DDP = ["trainer=ddp", "trainer.accelerator=cpu"]
Everclip = Callable[..., tuple[int, str, str]]


def command(tmp_path: Path, cache_dir: Path, *words: str) -> list[str]:
    places = [f"paths.outputs={tmp_path}", f"paths.cache={cache_dir}"]
    return [sys.executable, "-m", "everclip.commands.run", *QUICK, *places, *words]


def runs_below(folder: Path) -> dict[tuple[str, ...], RunFolder]:
    """Finished runs by (outputs' name, seed, processes)."""
    found = {}
    for path in folder.rglob("run.json"):
        run = RunFolder(path.parent)
        assert run.state == "finished"
        facts = run.read_run()
        found[path.parents[5].name, f"seed{facts['seed']}", f"{facts['devices']}"] = run
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Callable[[str], RunFolder]:
    """Gives the run of `QUICK` in this process with a seed, made once."""
    folder = tmp_path_factory.mktemp("alone")
    return cache(lambda seed: run_in(folder / seed, cache_dir, *QUICK, f"seed={seed}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        pytest.param(DDP, "outputs", {("outputs", "seed0", "2")}, id="single-ddp", marks=pytest.mark.everything),
        # One process after two.
        pytest.param(
            [*DDP, "-m", "seed=0", "trainer.devices=2,1"],
            "outputs/on${trainer.devices}",
            {(f"on{processes}", "seed0", f"{processes}") for processes in (1, 2)},
            id="2-1",
        ),
        # Two after one as well, and two seeds on two processes.
        pytest.param(
            [*DDP, "-m", "seed=0,1", "trainer.devices=2,1"],
            "outputs/on${trainer.devices}",
            {(f"on{processes}", f"seed{seed}", f"{processes}") for seed in range(2) for processes in (1, 2)},
            id="2-1-2-1",
            marks=pytest.mark.everything,
        ),
    ],
)
def test_every_job_has_its_folder_its_processes_and_its_numbers(
    words: list[str],
    place: str,
    expected: set[tuple[str, ...]],
    alone: Callable[[str], RunFolder],
    tmp_path: Path,
    cache_dir: Path,
) -> None:
    outputs = f"paths.outputs={tmp_path}/{place}"
    done = subprocess.run(command(tmp_path, cache_dir, *words, outputs), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = runs_below(tmp_path / "outputs")
    assert set(found) == expected
    folders = {path for path in (tmp_path / "outputs").rglob("seed*") if path.is_dir()}
    assert folders == {ours.path for ours in found.values()}
    for (_, seed, _), ours in found.items():
        single = alone(seed.removeprefix("seed"))
        assert (ours.path / "counts.csv").read_text() == (single.path / "counts.csv").read_text()
        for session, other in zip(ours.read_sessions(), single.read_sessions(), strict=True):
            for task, reference in zip(session["tasks"], other["tasks"], strict=True):
                assert abs(correct(task) - correct(reference)) <= 1


@pytest.mark.slow
def test_failed_runs_stop_no_other_and_finished_ones_cost_nothing(tmp_path: Path, cache_dir: Path) -> None:
    words = command(tmp_path, cache_dir, "method=ncm", "-m", "max_sessions=9,1,2", "hydra.launcher.n_jobs=2")
    first = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert first.returncode == 2
    assert "\n[1] ncm on shapes_fscil" in first.stdout
    assert "\n[2] ncm on shapes_fscil" in first.stdout
    assert first.stderr == "[0] everclip: max_sessions=9, but the sequence has 3 sessions\n"
    assert len(list(tmp_path.rglob("summary.json"))) == 2
    (listed,) = (tmp_path / "sweeps").glob("*.json")
    assert [job.error for job in Sweep.read(listed).jobs] == [
        "exit 2: max_sessions=9, but the sequence has 3 sessions", None, None,
    ]  # fmt: skip
    words[words.index("max_sessions=9,1,2")] = "max_sessions=1,2"
    words.append("tags=[later]")
    code = "\n".join(
        [
            "import sys, atexit",
            "atexit.register(lambda: sys.stdout.write(f'torch={\"torch\" in sys.modules}'))",
            f"sys.argv = ['everclip', *{words[3:]!r}]",
            "from everclip.commands.run import main",
            "main()",
        ]
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert again.returncode == 0
    told = "tags are now later, before: none\n"
    assert again.stdout.startswith(f"{told}{told}2 of 2 runs are finished already\nshapes_fscil:")
    assert again.stdout.endswith("torch=False")


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.everything)], ids=["SIGTERM", "SIGINT"]
)
def test_a_stopped_sweep_stops_its_run_and_starts_no_other(
    tmp_path: Path, cache_dir: Path, number: signal.Signals
) -> None:
    words = command(tmp_path, cache_dir, "train.base.epochs=5000", "-m", "seed=0,1")
    sweep = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("run.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    sweep.send_signal(number)
    _, error = sweep.communicate(timeout=120)
    assert sweep.returncode == 75, error
    (run,) = tmp_path.rglob("run.json")
    assert RunFolder(run.parent).state == "preempted"
    assert not list(tmp_path.rglob("lock.json"))


@pytest.fixture
def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep of four jobs whose words are lines of a shell."""
    monkeypatch.setattr(launchers, "COMMAND", ("sh", "-c"))
    lines = ["echo 0", "kill -9 $$", "echo everclip: no >&2; exit 2", "echo 3"]
    jobs = [Job(f"{tmp_path}/s/m/b/d/seed{number}", [line]) for number, line in enumerate(lines)]
    return Sweep(tmp_path, jobs, str(tmp_path))


CODES = {0: 0, 1: 137, 2: 2, 3: 0}
ERRORS = [None, "exit 137: killed by SIGKILL; the same command goes on", "exit 2: no", None]


def test_a_sweep_says_what_became_of_each_run(four: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    assert launchers.LocalRuns(2).run(four, range(4)) == CODES
    assert [job.error for job in four.jobs] == ERRORS
    assert [job.state for job in Sweep.read(four.path).jobs] == ["completed", "failed", "failed", "completed"]
    killed = "[1] everclip: killed by SIGKILL; the same command goes on"
    assert sorted(capfd.readouterr().err.splitlines()) == [killed, "[2] everclip: no"]


def test_a_sweep_that_cannot_print_or_note_runs_all_its_jobs(four: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    four.path.mkdir(parents=True)  # in the place of the list
    with os.fdopen(writer, "w", 1) as closed, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", closed)
        with as_mirrors():
            set_up_logging("info")
            assert launchers.LocalRuns(2).run(four, range(4)) == CODES


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_a_sweep_ends_where_nothing_can_be_started(four: Sweep, num_jobs: int) -> None:
    Path(four.cwd).rmdir()
    assert launchers.LocalRuns(num_jobs).run(four, range(4), note=False) == dict.fromkeys(range(4), 1)


def test_a_sweep_returns_its_slots_when_printing_fails(four: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(launchers.log, "info", fail)
    runs = launchers.LocalRuns(1)
    assert set(runs.run(four, range(4)).values()) == {1}
    assert runs._slots.qsize() == 1


@pytest.fixture
def everclip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Everclip:
    """Runs the command in this process; gives exit code, stdout and stderr."""

    def _run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["everclip", f"paths.outputs={tmp_path}/out puts", *SMALL, *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return _run


def test_strategies_that_cannot_hold_a_run_are_refused(everclip: Everclip, tmp_path: Path) -> None:
    code, _, error = everclip("trainer.strategy=ddp_spawn", "trainer.devices=2")
    assert code == 2
    assert error.startswith("everclip: trainer.strategy=ddp_spawn: must be one of auto, ddp, fsdp")
    code, _, error = everclip("trainer.strategy=fsdp", "trainer=cpu")
    assert code == 2
    assert error.startswith(
        "everclip: trainer.strategy=fsdp divides weights among processes: trainer.devices=2 or more"
    )
    assert not list(tmp_path.rglob("run.json"))


def test_a_run_that_is_listed_twice_is_one_job() -> None:
    jobs = [(Job("/o/a", ["x"]), "same"), (Job("/o/b", ["y"]), "other"), (Job("/o/a", ["z"]), "same")]
    assert distinct(jobs) == [jobs[0][0], jobs[1][0]]


def test_two_jobs_that_are_one_run_are_refused(everclip: Everclip) -> None:
    code, _, error = everclip("-m", "trainer.devices=1,2")
    assert code == 2
    assert error.startswith("everclip: trainer.devices=1 and trainer.devices=2 are one and the same run (")


def test_a_launcher_that_shares_processes_is_refused(everclip: Everclip) -> None:
    code, _, error = everclip("-m", "hydra/launcher=basic")
    assert (code, error) == (
        2, "everclip: hydra/launcher=basic would run several jobs in a process; use local, slurm or slurm_array\n",
    )  # fmt: skip


def test_a_wrong_value_in_one_job_stops_the_sweep_before_it_begins(everclip: Everclip) -> None:
    code, out, error = everclip("-m", "train.epochs=1,-1")
    assert (code, out, error) == (2, "", "everclip: train.epochs=-1: must be at least 0\n")


@pytest.mark.parametrize("launcher", ["local", "slurm"])
def test_missing_data_stop_a_sweep_before_it_begins(everclip: Everclip, tmp_path: Path, launcher: str) -> None:
    words = ("-m", "seed=0,1", "method=ncm,zscl", "reference=folder", f"reference.root={tmp_path}/none")
    code, out, error = everclip(*words, f"hydra/launcher={launcher}")
    expected = f"everclip: reference.root={tmp_path}/none: no such folder; give one that holds pictures\n"
    assert (code, out, error) == (2, "", expected)
    assert [path.name for path in (tmp_path / "out puts").iterdir()] == ["multirun.yaml"]  # Hydra's


def test_data_of_a_sweep_are_looked_for_once(
    compose: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(sequences, "make_sequence", lambda config: made.append(config.sequence.name))
    names = ("shapes_fscil", "shapes_cil")
    shapes, others = (compose(f"sequence={name}") for name in names)
    again, held_out = shapes.copy(), shapes.copy()
    again.seed, held_out.validation = 1, 0.2
    found: set[str] = set()
    sequences.require_data([shapes, others, again], found)
    sequences.require_data([again, held_out], found)
    assert made == [*names, names[0]]


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_sweep_under_a_process_launcher_is_refused(name: str) -> None:
    refuse_within({name: "1"})
    with pytest.raises(ConfigError, match=f"here 2 of it would run .{name}.;"):
        refuse_within({name: "2"})


def test_a_sweep_as_a_trial_of_another_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave out -m"):
        refuse_within({"WANDB_SWEEP_ID": "ab12"})


def test_ranks_of_the_sweep_itself_do_not_reach_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = clean_environment()
    for name in ("LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "7")
    assert clean_environment() == before
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert clean_environment() != before


@pytest.mark.parametrize(
    ("visible", "slot", "processes", "expected"),
    [("0,1,2,3", 1, 1, "1"), ("0,1,2,3", 5, 1, "1"), ("4,5,6,7", 1, 2, "6,7"), ("0", 1, 1, None), ("", 1, 1, None)],
)
def test_runs_at_once_get_different_gpus(
    monkeypatch: pytest.MonkeyPatch, visible: str, slot: int, processes: int, expected: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    chosen = gpus_of(slot, Job("/a", [], processes=processes))
    assert chosen == ({} if expected is None else {"CUDA_VISIBLE_DEVICES": expected})


@pytest.mark.parametrize("path", ["/a/b-c.d", "/it's here/ü", "/a\\'b,{c}", "/x=$(y)"])
def test_every_path_survives_hydras_grammar(path: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir={quoted(Path(path))}"])
    value = override.value()
    assert str(getattr(value, "text", value)) == path


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"devices": 4, "num_nodes": 2, "accelerator": "gpu"}, (2, 4, 4)),
        ({"devices": [1, 3], "num_nodes": 1, "accelerator": "cuda"}, (1, 2, 2)),
        ({"devices": "2", "num_nodes": 1, "accelerator": "cpu"}, (1, 2, None)),
        ({"devices": "auto", "num_nodes": 1, "accelerator": "auto"}, (1, 1, None)),
    ],
)
def test_machines_follow_from_the_trainer(trainer: dict[str, object], expected: tuple[int, int, int | None]) -> None:
    assert tuple(resources(trainer).values()) == expected


def test_a_sweep_is_found_again_with_its_job_ids(tmp_path: Path) -> None:
    jobs = [Job(f"/o/shapes/ncm/tiny/abc/seed{seed}", [f"seed={seed}"]) for seed in range(2)]
    sweep = Sweep(tmp_path, jobs, "/")
    sweep.note({1: {"slurm": "7_1", "error": "x"}})
    again = Sweep(tmp_path, jobs[::-1], "/")
    assert again.path == sweep.path
    again.keep_notes()
    assert [job.slurm for job in again.jobs] == ["7_1", None]
    assert [job.name for job in again.jobs] == ["ncm-shapes-seed1", "ncm-shapes-seed0"]


# Stands for srun: says what it was given and exits as told.
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" >>"$SAID"
exit "$SRUN_CODE"
"""


@pytest.mark.parametrize(
    ("code", "requeue", "again"),
    [(75, True, True), (138, True, True), (143, True, True), (75, False, False), (1, True, False)],
)
def test_the_script_starts_the_command_and_puts_stopped_tasks_back(
    tmp_path: Path, code: int, requeue: bool, again: bool
) -> None:
    words = ["method=a b", "x='$HOME'", '"q"']
    jobs = [Job("/o/s/m/b/d/seed0", ["no"]), Job("/o/s/m/b/d/seed1", words, nodes=2, processes=3, gpus=3)]
    sweep = Sweep(tmp_path / "50%", jobs, "/")
    options = slurm.Options(time="1:00:00", requeue=requeue, setup=["export A=1"], max_parallel=2, extra=["--nice"])
    text = slurm.script(sweep, [1], options)
    asked = {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}
    logs = f"{tmp_path}/50%%/sweeps/{sweep.path.stem}/slurm/%a.log"
    assert asked == {
        "--job-name=m-s-seed1", "--array=1%2", f"--output={logs}", "--open-mode=append", "--chdir=/", "--nodes=2",
        "--ntasks-per-node=3", "--gpus-per-node=3", "--time=1:00:00", "--signal=USR1@120", "--nice",
        "--requeue" if requeue else "--no-requeue",
    }  # fmt: skip
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(SRUN)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "array.sh").write_text(text)
    task = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "1", "SRUN_CODE": f"{code}"}
    found = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": f"{tmp_path}/said"}
    assert subprocess.run(["bash", tmp_path / "array.sh"], env=task | found).returncode == code
    said = (tmp_path / "said").read_text().splitlines()
    renamed = ["update", "jobid=9_1", "name=m-s-seed1"]
    assert said == [*renamed, "--wait=120", *launchers.COMMAND, *words, *(["requeue", "9_1"] * again)]


def test_without_slurm_the_remedy_is_named(everclip: Everclip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, error = everclip("-m", "hydra/launcher=slurm")
    assert code == 2
    assert error.startswith("everclip: sbatch is not installed here; hydra/launcher=local runs without it")


def test_a_check_writes_the_script_without_submitting(everclip: Everclip) -> None:
    code, out, _ = everclip("-m", "hydra/launcher=slurm_array", "seed=3,4", "check=true")
    assert code == 0
    (line,) = [line for line in out.splitlines() if "sbatch" in line]
    script = Path(line.partition("sbatch ")[2])
    text = script.read_text()
    assert f"export EVERCLIP_COMPOSED='{script.parents[1]}/jobs'/$SLURM_ARRAY_TASK_ID.yaml\n" in text
    assert OmegaConf.load(script.parents[1] / "jobs/1.yaml").seed == 4
    assert "#SBATCH --array=0,1%8\n" in text
    assert "check=" not in text
    (case,) = [line for line in text.splitlines() if line.startswith("  1)")]
    words = shlex.split(case.partition("words=(")[2].removesuffix(") ;;"))
    assert "seed=4" in words
    assert words[-1].endswith("/seed4'")
