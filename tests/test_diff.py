"""What `everclip-diff` says of two runs and of two groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from everclip.commands.diff import main
from everclip.reporting.stored import run_folders
from everclip.runs.folder import RunFolder
from everclip.sweeps.sweep import Job, Sweep
from tests.test_page import make_run


def compared(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    main([*map(str, words), "--json"])
    return dict(json.loads(capsys.readouterr().out))


@pytest.fixture
def groups(tmp_path: Path) -> tuple[Path, Path]:
    """Three seeds of one method, two of which another has, which learnt with another rate from other weights."""
    for seed, better in ((0, 0), (1, 1), (2, 0)):
        make_run(tmp_path, seed=seed, better=better)
    for seed, better in ((1, 2), (0, 2)):
        run = make_run(tmp_path, "er", seed=seed, better=better, weights={"sha256": "b" * 64})
        config = run.path / "config.yaml"
        config.write_text(config.read_text().replace("0.003", "0.2") + "paths:\n  outputs: elsewhere\n")
    return tmp_path / "shapes" / "ncm", tmp_path / "shapes" / "er"


def test_groups_are_paired_by_seed(groups: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, *groups)
    assert found["settings"] == {"method.name": {"a": ["ncm"], "b": ["er"]}, "optimizer.lr": {"a": [0.003], "b": [0.2]}}
    assert found["origin"] == {"weights": {"a": ["aaaaaaaa"], "b": ["bbbbbbbb"]}}
    assert "data" in found["same"]
    (result,) = found["results"]
    assert [pair["seeds"] for pair in result["pairs"]] == [[0, 0], [1, 1]]
    assert [Path(path).name for path in found["unpaired"]] == ["seed2"]
    first, last = result["sessions"]
    assert (first["a"], first["b"], first["difference"]) == ([80.0, 90.0], [100.0, 100.0], 15.0)
    assert (first["low"] + first["high"]) / 2 == pytest.approx(15.0)
    assert first["p"] == pytest.approx(0.2048, abs=1e-4)
    assert (last["a"], last["b"]) == ([60.0, 65.0], [70.0, 70.0])
    assert [(task["task"], task["difference"]) for task in result["tasks"]] == [("task 0", 15.0), ("task 1", 0.0)]
    assert {line["metric"]: line["difference"] for line in result["metrics"]}["average_accuracy"] == 11.25


def test_it_reads_on_a_terminal(groups: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    main([str(groups[0]), f"{groups[1]}/*/*/seed[01]", "--confidence", "90"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"A: {groups[0]}: 3 runs"
    assert "| optimizer.lr | 0.003 | 0.2 |" in lines
    assert "Results: 2 pairs, seed 0, 1" in lines
    assert "| session | A            | B             |  B - A |    90 % interval |      p |" in lines
    assert "| 0       | 85.00 ± 7.07 | 100.00 ± 0.00 | +15.00 | -16.57 to +46.57 | 0.2048 |" in lines
    assert lines[-1] == f"without a counterpart: {groups[0]}/tiny/ncm/seed2"


def test_two_runs_are_a_pair_whatever_their_seeds(
    groups: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = (groups[0] / "tiny/ncm/seed2", groups[1] / "tiny/er/seed1")
    found = compared(capsys, *runs)
    assert found["settings"]["seed"] == {"a": [2], "b": [1]}
    assert (found["results"][0]["sessions"][0]["p"], found["unpaired"]) == (None, [])
    main([*map(str, runs)])
    assert "| session | A     | B      |  B - A |" in capsys.readouterr().out


def test_what_varies_within_groups_pairs_besides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two whole sweeps, before and after a change of the code."""
    for place, commit in (("before", "c0ffee"), ("after", "decade")):
        for method in ("ncm", "er"):
            make_run(tmp_path / place, method, better=commit == "decade", commit=commit)
    jobs = [Job(str(path), []) for path in run_folders(tmp_path / "after")]
    sweep = Sweep(tmp_path, [*jobs, Job(f"{tmp_path}/never/begun", [])], "/")
    sweep.write()
    found = compared(capsys, tmp_path / "before", sweep.path)
    assert (found["settings"], found["origin"]) == ({}, {"commit": {"a": ["c0ffee"], "b": ["decade"]}})
    assert [section["name"] for section in found["results"]] == ["er", "ncm"]
    assert all(section["sessions"][0]["difference"] == 10.0 for section in found["results"])


def test_two_settings_of_one_seed_are_told_apart_by_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for digest in ("old", "new"):
        make_run(tmp_path, digest=digest)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), str(tmp_path)])
    assert "/new/seed0 and" in (said := capsys.readouterr().err)
    assert "seed 0: which one is meant? Give a folder or a pattern" in said


def test_an_unfinished_run_is_compared_as_far_as_it_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("ncm", "er"):
        make_run(tmp_path, method)
    run = RunFolder(tmp_path / "shapes/er/tiny/er/seed0")
    run.write_sessions(run.read_sessions()[:1], 2)
    (run.path / "summary.json").unlink()
    run.update_run(state="running")
    (result,) = compared(capsys, tmp_path / "shapes/ncm", run.path)["results"]
    assert ([line["session"] for line in result["sessions"]], result["metrics"]) == (["0"], [])


def test_classes_differ_where_both_were_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [make_run(tmp_path, method).path for method in ("ncm", "er")]
    assert compared(capsys, *places)["results"][0]["classes"] == []
    for place, cat, dog in zip(places, (50.0, 80.0), (40.0, 10.0), strict=True):
        text = f"class_id,class,session_00,session_01\n0,cat,90.0,{cat}\n1,dog,,{dog}\n"
        (place / "inspection").mkdir()
        (place / "inspection" / "per_class.csv").write_text(text)
    (result,) = compared(capsys, *places)["results"]
    assert [(line["class"], line["difference"]) for line in result["classes"]] == [("cat", 30.0), ("dog", -30.0)]
    main([*map(str, places)])
    assert "By class, the largest differences" in capsys.readouterr().out


def test_other_data_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path, method, fingerprint=sign * 64).path for method, sign in (("ncm", "f"), ("er", "e"))]
    main([*map(str, runs)])
    assert "judged on other data" in (said := capsys.readouterr().out)
    assert "| data | ffffffff | eeeeeeee |" in said


@pytest.mark.parametrize("place", ["nowhere", "nowhere/*", "damaged"])
def test_a_place_without_runs_is_refused(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("damaged").mkdir()
    Path("damaged/run.json").write_text("{")
    with pytest.raises(SystemExit, match="2"):
        main([place, place])
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"everclip-diff: {place}: no run there; give a run folder")
    assert last.endswith("run.json is missing or damaged") == (place == "damaged")
