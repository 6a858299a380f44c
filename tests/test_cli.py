from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import pytest

from everclip.commands import run as cli
from tests.conftest import SMALL

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def everclip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, cache_dir: Path
) -> Command:
    """Runs the command in this process; gives exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        places = [f"paths.outputs={tmp_path}/outputs", f"paths.cache={cache_dir}"]
        monkeypatch.setattr(sys, "argv", ["everclip", *places, *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("method=cpe_clop", "method=cpe_clop is unknown.*did you mean cpe_clip?"),
        ("metod=ncm", "metod is unknown.*did you mean method?"),
        ("trainer.devces=2", "trainer.devces is unknown.*did you mean devices?"),
        ("method.promt_length=3", "method.promt_length is unknown.*did you mean prompt_length?"),
        ("+method.promt_length=3", "method.promt_length is unknown.*did you mean prompt_length?"),
        ("train.epochs=abc", "train.epochs: Value 'abc' of type 'str'"),
        ("seed=1.5", "seed: Value '1.5' of type 'float'"),
        ("train.epochs=-1", "train.epochs=-1: must be at least 0"),
        ("trainer.precision=8", "trainer.precision=8: must be one of auto, 32-true"),
        ("method.prompt_length=two", "method.prompt_length=two: input should be a valid integer"),
        ("method.prompt_length=0", "method.prompt_length=0: input should be greater than or equal to 1"),
        ("method.text_mode=accumalate", "method.text_mode=accumalate: input should be 'replace', 'accumulate'"),
        ("method.template=cat", "method.template=cat: string should match"),
        ("method.prompt_depth=9", "method: prompt_depth=9, but the text tower has 4 blocks"),
        ("sequence=folder", "sequence.root is required; give it as sequence.root=..."),
        ("sequence.base_classes=200", "sequence.base_classes=200, but there are 100 classes"),
        ("sequence.class_order=random", "sequence.class_order=random: must be identity or seed<number>"),
        ("sequence.style=oil", "sequence.style=oil: must be one of cards, scenes"),
        ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
        ("optimizer.lr=abc", "optimizer.lr=abc: must be a number"),
        ("trainer=cpu trainer.devices=abc check=false", "trainer.devices=abc: must be a number of devices from 1 on"),
        ("trainer=gpu check=false", "trainer.accelerator=gpu .*trainer=auto takes what this machine has"),
        ("trainer=cpu trainer.precision=16-mixed check=false", "trainer.precision=16-mixed needs a GPU"),
        ("method=ncm ++method.foo=1", "method.foo is unknown; Ncm has no options"),
        ("seed=0,1", r"seed=0,1: several values are a sweep, which needs -m; a list is written seed=\[0,1\]"),
        ("~logger", "~logger removes a group that every run needs; choose one of its options, logger=..."),
        ("--config-name foo", "--config-name: there is one root configuration"),
        ("optimizer.nesterow=true", "optimizer.nesterow is unknown"),
        ("max_sessions=99", "max_sessions=99, but the sequence has 9 sessions"),
        ("backbone.weights=/nowhere/w.safetensors", "/nowhere/w.safetensors: no such file"),
        ("backbone=vit_b16_openai backbone.weights=laion", "no tag of ViT-B-16-quickgelu; tags: openai"),
        ("backbone=vit_b16_openai backbone.model=ViT-B-16", "QuickGELU.*use backbone.model=ViT-B-16-quickgelu"),
        ("backbone.model=vit", "backbone.model=vit is no open_clip model"),
        ("[", "'\\[' is no override"),
        (
            "sequence=few_shot sequence/dataset=dtd paths.data=/nowhere",
            "everclip-data prepare dtd gets it",
        ),  # a nested part
        ("debug=nan", "null or nan is not: .*, logger, debug; debug=anomaly finds what is not finite$"),
    ],
)
def test_a_mistake_is_refused_with_exit_2_and_one_line(
    everclip: Command, words: str, message: str, tmp_path: Path
) -> None:
    code, _, error = everclip("check=true", *words.split())
    assert code == 2
    assert len(error.splitlines()) == 1
    import re

    assert re.search(message, error), error
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").iterdir())


def test_check_says_what_would_run_and_leaves_nothing(everclip: Command, tmp_path: Path) -> None:
    code, out, _ = everclip("check=true", "backbone=vit_b16_openai", "sequence=shapes_fscil", "logger=none")
    assert code == 0
    assert "406,272 trainable of 150,027,009 parameters" in out
    assert "60 + 8 x 5 classes, 2000 test pictures" in out
    assert "keeps     1.6 MB after the last session, in memory and in its checkpoint" in out
    assert "not started" in out
    assert list((tmp_path / "outputs").iterdir()) == []


def test_check_says_what_of_pairs_is_trained(everclip: Command) -> None:
    code, out, _ = everclip("check=true", "method=lora", "sequence=shapes_retrieval", "sequence.train_scenes=16")
    assert code == 0
    assert "shapes_retrieval: 3 x 16 training pictures, 300 test pictures\n" in out


def test_check_says_what_is_left_of_a_shortened_run(everclip: Command) -> None:
    code, out, _ = everclip("check=true", "method=finetune", "max_sessions=2", "train.max_steps=3")
    assert code == 0
    assert "60 + 5 classes, 1300 test pictures" in out
    assert "later, at most 3 steps a session" in out


def test_check_counts_what_arrives_unevenly(everclip: Command) -> None:
    code, out, _ = everclip("check=true", "method=conpet")
    assert code == 0
    assert f"16,384 trainable of 6,510,433 parameters, and {65 * 97:,} more in session 1, {5 * 97} in the last" in out


@pytest.mark.parametrize(
    "name", ["run", "list", "table", "report", "status", "diff", "data", "export", "interpolate", "sharpness"]
)
def test_every_command_says_its_version(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["everclip", "--version"])
    with pytest.raises(SystemExit) as stop:
        import_module(f"everclip.commands.{name}").main()
    assert (stop.value.code, capsys.readouterr().out) == (0, f"everclip {version('everclip')}\n")


def test_a_run_and_the_same_command_again(everclip: Command, tmp_path: Path) -> None:
    code, out, error = everclip(*SMALL, "method=ncm", "logger=csv")
    assert (code, error) == (0, "")
    folder = Path(out.splitlines()[-1])
    assert folder.parts[-5:-2] == ("shapes_fscil", "ncm", "tiny")
    assert folder.name == "seed0"
    assert len(folder.parent.name) == 8
    written = {path.name for path in folder.iterdir()}
    assert written == {
        "config.yaml", "run.json", "sessions.jsonl", "accuracy_matrix.csv", "counts.csv", "scores.csv", "summary.json",
        "run.log", "train.csv", "checkpoints", "plots",
    }  # fmt: skip
    assert {path.name for path in (folder / "plots").iterdir()} == {
        "accuracy_matrix.pdf", "accuracy_matrix.png", "accuracy_per_session.pdf", "accuracy_per_session.png",
        "confusion_between_sessions.pdf", "confusion_between_sessions.png",
    }  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, again, _ = everclip(*SMALL, "method=ncm", "logger=csv")
    assert code == 0
    assert "finished earlier" in again
    assert again.splitlines()[-3:] == out.splitlines()[-3:]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    code, again, _ = everclip(*SMALL, "method=ncm", "logger=csv", "tags=[ablation]", "notes=why")
    assert (code, again.splitlines()[:2]) == (
        0,
        ["tags are now ablation, before: none", "notes are now why, before: none"],
    )


def test_logging_devices_and_paths_do_not_change_the_folder(everclip: Command) -> None:
    folders = set()
    for words in ((), ("logger=csv",), ("trainer.devices=2",), ("data.eval_batch_size=7",), ("paths.data=/a",)):
        _, out, _ = everclip("check=true", *words)
        folders.add(out.splitlines()[-1].split()[1])
    assert len(folders) == 1
    _, out, _ = everclip("check=true", "train.epochs=6")
    assert out.splitlines()[-1].split()[1] not in folders


def test_a_sweep_prints_mean_and_spread_of_each_setting(everclip: Command, tmp_path: Path) -> None:
    # The runs are made here, one by one: that a sweep starts what is missing is for tests/test_sweeps.py to show.
    words = (*SMALL, "method=cpe_clip", "max_sessions=1")
    with patch("everclip.reporting.results.write_plots", return_value=[]):
        for length, seed in itertools.product((1, 2), (0, 1)):
            everclip(*words, f"method.prompt_length={length}", f"seed={seed}")
    code, out, error = everclip(*words, "-m", "method.prompt_length=1,2", "seed=0,1")
    assert (code, error) == (0, "")
    assert out.startswith("4 of 4 runs are finished already\n")
    *_, header, _, first, second, folder = out.splitlines()
    assert [cell.strip() for cell in header.split("|")[1:4]] == ["method", "seeds", "0"]
    for length, row in enumerate((first, second), start=1):
        assert [cell.strip() for cell in row.split("|")[1:3]] == [f"cpe_clip method.prompt_length={length}", "2"]
        assert "±" in row
    assert len(list((tmp_path / "outputs").rglob("summary.json"))) == 4
    assert (Path(folder) / "table.md").read_text().splitlines()[0] == header
    assert (Path(folder) / "accuracy_per_session.png").stat().st_size > 1000


def test_a_folder_in_use_is_refused_with_exit_3(everclip: Command) -> None:
    words = (*SMALL, "method=zero_shot", "max_sessions=1")
    _, out, _ = everclip("check=true", *words)
    folder = Path(out.splitlines()[-1].split()[1])
    folder.mkdir(parents=True)
    holder = subprocess.Popen(["sleep", "60"])
    import socket

    facts = {"host": socket.gethostname(), "pid": holder.pid, "since": "2026-01-01"}
    (folder / "lock.json").write_text(json.dumps(facts))
    try:
        code, _, error = everclip(*words)
        assert code == 3
        assert f"process {holder.pid} on {socket.gethostname()} since 2026-01-01" in error
    finally:
        holder.kill()
        holder.wait()
    code, _, _ = everclip(*words)  # the holder is gone: taken over
    assert code == 0
    assert not (folder / "lock.json").exists()


def test_sigterm_saves_the_state_and_exits_75_though_nobody_reads_its_output(tmp_path: Path, cache_dir: Path) -> None:
    words = [*SMALL, f"paths.outputs={tmp_path}", f"paths.cache={cache_dir}", "train.base.epochs=500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "everclip.commands.run", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # the run has begun
    process.stdout.close()
    process.stdout = None
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert error == "everclip: stopped by SIGTERM; the same command goes on\n"
    (run,) = tmp_path.rglob("run.json")
    assert json.loads(run.read_text())["state"] == "preempted"
    assert not (run.parent / "lock.json").exists()
