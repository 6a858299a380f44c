"""The command `everclip-table`, W&B as a source of runs, and `REPRODUCTION.md`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from everclip.commands import table
from everclip.config import build, schema
from everclip.config.reading import Reading
from everclip.reporting.tables import composed
from everclip.reporting.tables.composed import Composer
from everclip.reporting.tables.experiments import Runs, make_experiment, scan
from everclip.reporting.tables.reproduction import reproduction
from everclip.reporting.tables.table import Entry
from everclip.reporting.tables.wandb_runs import to_result
from tests.test_tables import NCM, definition, write_run


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, cache_dir: Path) -> None:
    monkeypatch.setenv("EVERCLIP_CACHE", str(cache_dir))


TABLE = """
title: Tiny
sessions: 2
columns: [average_accuracy]
sources: {a: a paper}
rows:
  "":
    - {name: NCM, run: method=ncm, seeds: [0, 1], published: [{source: a, verified: true, sessions: [88, 79]}]}
"""


@pytest.fixture
def run_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Calls the command in a folder of its own, where `tiny.yaml` is a table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TABLE)
    return lambda *words: table.main(list(words))


def test_overrides_and_seeds_apply_to_every_run(
    run_table: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make_experiment(["method=ncm", "max_sessions=2"], (4,), Composer())
    write_run(tmp_path / "runs", experiment, 4, [90.5, 80.25])
    run_table("tiny.yaml", "--format", "csv", "max_sessions=2", "seed=4,5", "--runs", "runs")
    out, err = capsys.readouterr()
    assert "obtained,sessions/1,80.25,,1,,\n" in out
    assert "NCM, seed 5: everclip method=ncm max_sessions=2 seed=5 paths.outputs=runs" in err


def test_only_runs_of_a_tag(run_table: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = make_experiment(["method=ncm"], (0, 1), Composer())
    for seed in (0, 1):
        write_run(tmp_path / "runs", experiment, seed, [90.0, 80.0], tags=["first"] if seed == 0 else [])
    run_table("tiny.yaml", "--tag", "first", "--runs", "runs")
    assert "NCM, seed 1: `everclip method=ncm seed=1 paths.outputs=runs`" in capsys.readouterr().out


def test_without_runs_the_published_rows_and_the_commands_are_shown(
    run_table: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run_table("tiny.yaml")
    out, _ = capsys.readouterr()
    assert "| NCM    | published |       | 88.00 | 79.00 | 83.50 | a      |" in out
    assert "| NCM    | obtained  | 0/2   |       |       |       |        |" in out
    assert "- NCM, seeds 0, 1: `everclip -m method=ncm seed=0,1`" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ["fscil_cub20"], "table fscil_cub20 is unknown; there are: .*; did you mean fscil_cub200?", id="name"
        ),
        pytest.param(["none.yaml"], "none.yaml is not there", id="file"),
        pytest.param(["tiny.yaml", "--runs", "no"], "--runs no: there is no such folder", id="folder"),
        pytest.param(["tiny.yaml", "seed=a"], "seed=a: must be numbers", id="seed"),
        pytest.param(
            ["tiny.yaml", "max_session=1"], "max_session is unknown; .*did you mean max_sessions?", id="override"
        ),
        pytest.param(["tiny.yaml", "--wandb", "a/b"], "--wandb a/b: W&B cannot be read: ", id="wandb"),
    ],
)
def test_errors_are_one_line(
    run_table: Callable[..., None],
    words: list[str],
    message: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody is logged in there
    wandb.teardown()  # a service that another test has started would ask the network, for 30 s
    with pytest.raises(SystemExit) as stop:
        run_table(*words)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("everclip: ")]
    assert stop.value.code == 2
    start, _, end = message.partition(".*")
    assert line.startswith(f"everclip: {start}")
    assert line.endswith(end)


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TABLE)
    code = "import sys; from everclip.commands.table import main; main(['tiny.yaml']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("## Tiny")
    assert done.stdout.endswith("False\n")


def test_a_run_that_wandb_keeps_reads_as_a_run_folder_does() -> None:
    history = [{"session/index": 1, "session/accuracy": 80.0}, {"session/index": 0, "session/accuracy": 90.0}]
    facts = {"method": "ncm", "digest": NCM.digest, "seed": 0, "commit": "c"}
    result = to_result(Path("a/b/x"), facts, {"final/average_accuracy": 85.0, "_step": 3}, history)
    assert result.summary == {"average_accuracy": 85.0, "accuracy_per_session": [90.0, 80.0]}
    entry = Entry("", next(definition().all_rows())[1], [("", NCM)], {NCM.digest: {0: result}})
    columns = {column.name: column for column in definition().all_columns()}
    assert entry.values(columns["sessions/1"], "last_accuracy") == [80.0]
    assert entry.values(columns["minutes"], "last_accuracy") == []


def test_reproduction_lists_what_is_obtained_and_what_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TABLE)
    name, experiment = str(tmp_path / "tiny.yaml"), make_experiment(["method=ncm"], (0, 1), Composer())
    write_run(tmp_path / "runs", experiment, 0, [90.0, 80.0])
    assert reproduction([name], scan([str(tmp_path / "runs")])).splitlines()[-1] == (
        f"| NCM | {name} | Avg 83.50 | Avg 85.00 | 1/2 | cccccccc | "
        "seed 1 not run: `everclip method=ncm seed=1`; no reason recorded |"
    )


def test_reproduction_says_which_data_sets_a_row_needs(tmp_path: Path) -> None:
    parts = "parts: {A: sequence/dataset=dtd, B: sequence/dataset=eurosat}"
    row = '{name: LoRA, run: "method=lora backbone=vit_b16_openai sequence=few_shot", seeds: [1]}'
    (tmp_path / "parts.yaml").write_text(f'title: t\n{parts}\nrows: {{"": [{row}]}}\n')
    assert (
        reproduction([str(tmp_path / "parts.yaml")], Runs())
        .splitlines()[-1]
        .endswith(
            "| not run: needs weights openai of ViT-B-16-quickgelu and data set dtd and data set eurosat: `everclip -m "
            "method=lora backbone=vit_b16_openai sequence=few_shot sequence/dataset=dtd,eurosat seed=1` |"
        )
    )


def test_what_overrides_compose_to_is_remembered_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path))
    composer = Composer()
    before = composer.facts(["method=ncm"])
    composer.save()
    memory = tmp_path / "composed.json"
    memory.write_text(memory.read_text().replace(before["digest"], "recalled"))
    assert Composer().facts(["method=ncm"]) == before | {"digest": "recalled"}
    monkeypatch.setenv("EVERCLIP_DATA", "elsewhere")  # the configuration files read it
    assert Composer().facts(["method=ncm"]) == before
    memory.write_text("{")
    assert Composer().facts(["method=ncm"]) == before


def test_a_row_is_composed_anew_when_a_file_changes_that_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(schema.conf_dir(), conf)
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path))
    for module in (schema, build):
        monkeypatch.setattr(module, "conf_dir", lambda: conf)
    made: list[str] = []
    original = composed._compose

    def compose(words: list[str], reading: Reading) -> dict[str, Any]:
        made.extend(words)
        return original(words, reading)

    def digests() -> list[str]:
        made.clear()
        composer = Composer()
        found = [composer.facts([f"method={method}"])["digest"] for method in ("ncm", "zero_shot")]
        composer.save()
        return found

    monkeypatch.setattr(composed, "_compose", compose)
    before = digests()
    (conf / "method/lora.yaml").write_text("read by none")
    assert (digests(), made) == (before, [])
    (conf / "tuning/ncm").mkdir()  # where it was looked for in vain
    (conf / "tuning/ncm/tiny.yaml").write_text("# @package _global_\ntrain:\n  epochs: 7\n")
    tuned = digests()
    assert (tuned[0] != before[0], tuned[1:], made) == (True, before[1:], ["method=ncm"])
    with (conf / "method/zero_shot.yaml").open("a") as file:
        file.write("train:\n  epochs: 7\n")
    changed = digests()
    assert (changed[:1], changed[1] != before[1], made) == (tuned[:1], True, ["method=zero_shot"])
