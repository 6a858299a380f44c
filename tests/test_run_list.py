"""What `everclip-list runs` says, and what becomes of tags and notes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from everclip.commands.list import main
from everclip.config import checks
from everclip.errors import ConfigError
from everclip.runs.folder import RunFolder
from tests.test_page import make_run


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Three finished runs, one that has not begun to train, and a damaged one."""
    make_run(tmp_path, "er", attempts=[{"start": "2026-01-02"}], overrides=["method=er", "optimizer.lr=0.1"])
    make_run(tmp_path, "ncm", better=2, attempts=[{"start": "2026-01-01"}], tags=["ablation", "b"], notes="why")
    make_run(tmp_path, "lwf", better=1, attempts=[{"start": "2026-01-03"}], tags=["b"])
    early = RunFolder(tmp_path / "shapes/zscl/tiny/x/seed0")
    early.path.mkdir(parents=True)
    early.update_run(state="running", method="zscl", attempts=[{"start": "2026-01-04"}])
    (damaged := tmp_path / "shapes/zz/tiny/x/seed0").mkdir(parents=True)
    (damaged / "run.json").write_text("{")
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, Any]]:
    main(["runs", *map(str, words), "--json"])
    return list(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("key", "methods"),
    [
        (None, ["zscl", "lwf", "er", "ncm", None]),
        ("last", ["ncm", "lwf", "er", "zscl", None]),
        ("performance_drop", ["er", "lwf", "ncm", "zscl", None]),
        ("method", ["er", "lwf", "ncm", "zscl", None]),
    ],
)
def test_runs_are_sorted(
    outputs: Path, key: str | None, methods: list[str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    found = listed(capsys, outputs, *(["--sort", key] if key else []))
    assert [run["method"] for run in found] == methods
    assert found[-1]["state"] == "damaged"


def test_runs_of_a_tag(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (first, _) = listed(capsys, outputs, "--tag", "b", "--sort", "average")
    assert (first["tags"], first["notes"], first["last"]) == (["ablation", "b"], "why", 70.0)
    assert first["summary"]["performance_drop"] == 30.0
    assert listed(capsys, outputs, "--tag", "c") == []


def test_the_list_shows_what_it_is_sorted_by(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs", str(outputs), "--sort", "forgetting"])
    header, _, *lines = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    shown = [line[header.index("forgetting")] for line in lines]
    assert (shown, [line[header.index("settings")] for line in lines][:3]) == (
        ["10.00"] * 3 + [""] * 2,
        ["lr=0.1", "", ""],
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs", ".", "--sort", "averag"], "everclip-list: --sort averag: no run has it; .*did you mean average?"),
        (["runs", "nowhere"], "everclip-list: nowhere: no such folder; give a folder of outputs"),
        (["methods", "--tag", "b"], "everclip-list: error: a folder, --sort and --tag go with: everclip-list runs"),
    ],
)
def test_mistakes(
    words: list[str], said: str, outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(outputs)
    with pytest.raises(SystemExit, match="2"):
        main(words)
    start, _, end = said.partition(".*")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(start)
    assert last.endswith(end)


def test_a_command_changes_only_what_it_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = RunFolder(tmp_path)
    run.update_run(state="running")
    run.describe(["a", "b", "a"], "why")
    assert caplog.messages == []  # the first to say so
    run.describe(None, None)
    run.describe(["a", "b"], "why")
    run.describe(["c"], None)
    assert (caplog.messages, run.read_run()["notes"]) == (["tags are now c, before: a, b"], "why")
    run.describe([], "")
    assert caplog.messages[1:] == ["tags are now none, before: c", "notes are now none, before: why"]
    assert (run.read_run()["tags"], run.read_run()["notes"]) == ([], "")


def test_an_empty_tag_is_refused(compose: Callable[..., DictConfig]) -> None:
    checks.check_values(compose("tags=[a,1]"))
    with pytest.raises(ConfigError, match=r"tags has an empty one; give words as in tags=\[ablation,rank4\]"):
        checks.check_values(compose("tags=[a,' ']"))
