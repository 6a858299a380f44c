"""everclip-inspect: what it counts sample by sample adds up to what the run recorded."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from everclip.commands.inspect import main
from everclip.commands.report import main as report
from everclip.metrics.predictions import Predictions
from everclip.reporting.inspection import Looked, changed, few
from everclip.reporting.inspection_figures import flattened
from everclip.runs.folder import RunFolder

Run = Callable[..., RunFolder]


@pytest.fixture
def stored(finished: Run) -> RunFolder:
    """A run; before `capsys`, which would hear of it otherwise."""
    return finished("train.max_steps=2")


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def looked(session: int, tasks: list[int], predicted: list[int]) -> Looked:
    """Samples of class 0, one after the other in their tasks."""
    found = Predictions(np.zeros(len(tasks), np.int64), np.array(predicted), np.ones(len(tasks)))
    samples = np.array([tasks[:place].count(task) for place, task in enumerate(tasks)])
    return Looked(session, found, np.array(tasks), samples, np.zeros((len(tasks), 0), np.float32))


def test_samples_add_up_to_what_the_run_recorded_and_its_page_shows_them(
    stored: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "inspection"
    assert main([str(stored.path), "--output", str(target)]) == 0
    records = stored.read_sessions()
    shown = capsys.readouterr().out
    classes = rows(target / "per_class.csv")
    for record in records:
        assert f"{record['accuracy']:.2f}" in shown
        column = [float(own) for row in classes if (own := row[f"session_{record['index']:02d}"])]
        assert len(column) == record["seen_classes"]
        assert np.mean(column) == pytest.approx(record["accuracy"])  # classes have as many samples
        wrong = sum(
            int(row["count"]) for row in rows(target / "confusion.csv") if int(row["session"]) == record["index"]
        )
        bins = [row for row in rows(target / "calibration.csv") if int(row["session"]) == record["index"]]
        total = sum(int(row["count"]) for row in bins)
        assert 100 * (1 - wrong / total) == pytest.approx(record["accuracy"])
    changes = rows(target / "changes.csv")
    assert {row["change"] for row in changes} <= {"gained", "lost"}
    assert {path.name for path in target.glob("*.png")} == {
        "calibration.png", "classes.png", "confusion.png", "features.png",
    }  # fmt: skip
    for name in ("run.json", "sessions.jsonl", "summary.json", "config.yaml"):
        (tmp_path / name).write_bytes((stored.path / name).read_bytes())
    report([str(tmp_path)])
    page = (tmp_path / "report.html").read_text()
    assert 'id="inspection"' in page
    assert "Accuracy by class" in page
    assert page.count("data:image/png;base64") == 4


def test_only_samples_that_both_saw_are_gained_or_lost() -> None:
    gained, lost = changed(looked(0, [0, 0, 0], [0, 1, 0]), looked(1, [1, 0, 0, 0], [0, 0, 0, 1]))
    assert gained.tolist() == [2]
    assert lost.tolist() == [3]


def test_few_sessions_stand_for_many() -> None:
    shown = [each.session for each in few([looked(k, [0], [0]) for k in range(200)])]
    assert len(shown) == 9
    assert (shown[0], shown[-1]) == (0, 199)


def test_what_cannot_be_inspected_says_why(
    stored: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(stored.path), "--sessions", "99"]) == 2
    assert "no checkpoint of session 99" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    assert main([str(stored.path), "--features", "tsne"]) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err
    settings = json.dumps({"validation": "0.2"})
    (tmp_path / "checkpoints").mkdir()
    checkpoint = tmp_path / "checkpoints" / "session_00.safetensors"
    checkpoint.write_bytes(stored.checkpoint(0).read_bytes())
    text = (stored.path / "config.yaml").read_text().replace("validation: null", f"validation: {settings}")
    (tmp_path / "config.yaml").write_text(text)
    assert main([str(tmp_path)]) == 2
    assert "which is no number" in capsys.readouterr().err


def test_samples_of_like_features_lie_together_in_a_map_by_tsne() -> None:
    pytest.importorskip("sklearn.manifold")
    centres = np.eye(3, 8, dtype=np.float32).repeat(12, axis=0)
    noise = np.random.default_rng(0).normal(scale=0.05, size=centres.shape).astype(np.float32)
    places = flattened(centres + noise, "tsne")
    assert places.shape == (36, 2)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    own = np.arange(36) // 12
    np.fill_diagonal(apart, np.inf)
    assert (own[apart.argmin(axis=1)] == own).all()
    np.testing.assert_array_equal(places, flattened(centres + noise, "tsne"))
