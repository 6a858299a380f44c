"""The recipes of CONTRIBUTING.md work as they stand there."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from everclip.commands import run as cli
from everclip.reporting import results
from tests.conftest import SMALL
from tests.recipes import Recipe, recipe

ROOT = Path(__file__).parents[1]
Follow = Callable[..., str]


@pytest.fixture
def follow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, cache_dir: Path
) -> Follow:
    """Does what a recipe says in an empty folder, in this process; gives what the commands print."""

    def followed(written: Recipe, *smaller: str) -> str:
        written.write(tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        for program, *words in map(shlex.split, written.commands):
            if program == "python":
                runpy.run_path(*words)
                continue
            assert program == "everclip"
            own = [f"paths.cache={cache_dir}", "logger=none", *smaller]
            monkeypatch.setattr(sys, "argv", [program, *words, *own])
            monkeypatch.setattr(results, "write_plots", lambda *_: [])  # they take longer than all the rest
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert not stop.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    return followed


@pytest.mark.everything
def test_the_method_keeps_the_contract(tmp_path: Path) -> None:
    recipe("A method").write(tmp_path)
    (line,) = re.findall(r"^contract:.*\n\t.*\n\t(.*)\n", (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = line.replace("$(BIN)/python", sys.executable).replace(
        "$(abspath $(CONFIG_DIR))", str(tmp_path / "my_conf")
    )
    command = command.replace("$(abspath $(CONFIG_DIR)/..)", str(tmp_path))
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\b1\d passed\b", done.stdout.splitlines()[-1]), done.stdout[-3000:]


def test_the_method_runs_without_a_fork(follow: Follow) -> None:
    written = recipe("A method")
    printed = follow(written, *SMALL)
    assert "a row `text_bias`" in written.promise
    assert "| text_bias |" in printed
    # 10 classes with one bias each are what is trained at the end.
    assert printed.splitlines()[-2].endswith("|      10 |")


def test_the_installed_command_finds_the_method(tmp_path: Path, cache_dir: Path) -> None:
    written = recipe("A method")
    written.write(tmp_path)
    ((program, *words),) = map(shlex.split, written.commands)
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *words, "check=true", f"paths.cache={cache_dir}", *SMALL],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "text_bias: 6 trainable" in done.stdout


def test_the_data_set_runs_without_a_fork(follow: Follow) -> None:
    written = recipe("A data set")
    said = re.findall(r"`([^`]+)`", written.promise)
    printed = follow(written)
    assert said == ["ncm on few_shot_leaves", "3 classes"]
    assert all(words in printed for words in said), printed
    assert "| ncm    | 100.00 |" in printed  # leaves of three plain colours


def test_the_evaluator_runs_without_a_fork(follow: Follow) -> None:
    written = recipe("An evaluator")
    printed = follow(written, "sequence.dataset.num_classes=10")
    table = Path(printed.splitlines()[-1], "scores.csv").read_text()
    assert "`0,0,ece,...`" in written.promise
    assert re.search(r"^0,0,accuracy,[\d.]+,\d+\n0,0,ece,[\d.]+,\d+$", table, re.MULTILINE), table
