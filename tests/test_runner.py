from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from everclip.backbones.base import Backbone
from everclip.data.images import ArrayImages
from everclip.data.sequences.class_incremental import Protocol
from everclip.digest import json_sha256
from everclip.errors import DataAccessError, NotFiniteError
from everclip.methods.base import Extract
from everclip.methods.finetune import Finetune
from everclip.methods.linear_probe import LinearProbe
from everclip.methods.ncm import Ncm
from everclip.runs.folder import RunFolder
from everclip.types import Batch, ClassSet, Samples, Session, SessionView
from tests.correct import correct

Run = Callable[..., RunFolder]


def read(folder: RunFolder, name: str) -> str:
    return (folder.path / name).read_text()


def test_records_say_what_happened(finished: Run) -> None:
    folder = finished("method=cpe_clip")
    base, first, second = folder.read_sessions()
    assert [record["name"] for record in (base, first, second)] == ["base", "session_01", "session_02"]
    assert [record["seen_classes"] for record in (base, first, second)] == [6, 8, 10]
    assert [record["train_images"] for record in (base, first, second)] == [48, 6, 6]
    assert [record["train_steps"] for record in (base, first, second)] == [4, 4, 4]
    assert [task["scores"]["accuracy"]["count"] for task in second["tasks"]] == [30, 10, 10]
    total = sum(correct(task) for task in second["tasks"])
    assert second["accuracy"] == pytest.approx(100 * total / 50)
    assert base["trainable_parameters"] == 4 * 2 * 96 + 96 * 160 + 160
    assert base["zero_shot_before"] is not None
    assert base["losses"]["cross_entropy"] > 0
    summary = folder.read_summary()
    assert summary["last_accuracy"] == pytest.approx(second["accuracy"])
    assert summary["zero_shot_after"] == second["zero_shot_accuracy"]
    facts = folder.read_run()
    assert len(facts["weights"]["sha256"]) == len(facts["fingerprint"]) == 64
    assert facts["templates"] == ["{}."]
    assert facts["versions"]["torch"] == torch.__version__
    assert (facts["state"], len(facts["attempts"])) == ("finished", 1)


def test_matrix_file_leaves_what_was_not_evaluated_empty(finished: Run) -> None:
    folder = finished("method=cpe_clip")
    lines = [line.split(",") for line in read(folder, "accuracy_matrix.csv").splitlines()]
    assert lines[0] == ["session", "task_00", "task_01", "task_02"]
    assert lines[1][2:] == ["", ""]
    assert "" not in lines[3]
    counts = [line.split(",") for line in read(folder, "counts.csv").splitlines()]
    assert counts[1:] == [["0", "30", "0", "0"], ["1", "30", "10", "0"], ["2", "30", "10", "10"]]


def test_a_checkpoint_holds_only_what_was_adapted(run: Run, finished: Run) -> None:
    from everclip.training.checkpoint import load_session

    prompts, facts = load_session(finished("method=cpe_clip").checkpoint(2))
    assert set(prompts) == {"prompts", "projection.weight", "projection.bias"}
    assert facts["session"] == 2
    assert facts["global_step"] == 12
    whole, _ = load_session(run("method=finetune", "max_sessions=1", folder="finetune").checkpoint(0))
    assert len(whole) > 100
    means, _ = load_session(finished("method=ncm").checkpoint(2))
    assert {name: tuple(value.shape) for name, value in means.items()} == {
        "means.rows": (10, 96), "means.ids": (10,), "lengths.rows": (10, 1), "lengths.ids": (10,),
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["truncate", "foreign", "missing"])
def test_a_damaged_checkpoint_costs_one_session(run: Run, finished: Run, tmp_path: Path, damage: str) -> None:
    folder = RunFolder(shutil.copytree(finished("method=cpe_clip").path, tmp_path / "run"))
    expected = {name: read(folder, name) for name in ("accuracy_matrix.csv", "counts.csv")}
    last = folder.checkpoint(2)
    if damage == "truncate":
        last.write_bytes(last.read_bytes()[:1000])
    elif damage == "missing":
        last.unlink()
    else:
        last.write_bytes(finished("method=cpe_clip", "seed=3", "train.epochs=1").checkpoint(2).read_bytes())
    folder.update_run(state="failed")
    again = run("method=cpe_clip")
    assert {name: read(again, name) for name in expected} == expected
    log = read(folder, "run.log")
    assert f"{last}" in log
    assert "going back one session" in log
    assert "resuming after session 2 of 3" in log


def test_hand_edited_records_are_cut_at_the_first_bad_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    records = [{"index": i, "tasks": []} for i in (0, 2, 1)]
    lines = [json.dumps(record | {"check": json_sha256(record)}) for record in records]
    (tmp_path / "sessions.jsonl").write_text("\n".join(lines))
    assert folder.read_sessions() == records[:1]
    (tmp_path / "sessions.jsonl").write_text(lines[0] + '\n{"index": 1, "acc')
    assert folder.read_sessions() == records[:1]


class Hoarder(Ncm):
    """Keeps the base session's pictures without saying so."""

    def begin_session(self, session: Session, extract: Extract) -> None:
        self.hoard = session.train.subset([0]) if session.is_base else self.hoard
        if not session.is_base:
            extract(self.hoard, self.encode_image)


class Keeper(Ncm):
    """Names the pictures it keeps: the first of every session."""

    sees = "exemplars"
    memories: ClassVar[list[list[int]]] = []

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.register_buffer("numbers", torch.empty(0, dtype=torch.long))

    def kept(self) -> torch.Tensor:
        return self.numbers

    def begin_session(self, session: Session, extract: Extract) -> None:
        self.memories.append([] if session.memory is None else session.memory.labels.tolist())

    def end_session(self, session: Session, extract: Extract) -> None:
        super().end_session(session, extract)
        self.numbers = torch.cat([torch.tensor([session.offset]), self.numbers])


def test_old_pictures_are_out_of_reach(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import everclip.methods.ncm

    monkeypatch.setattr(everclip.methods.ncm, "Ncm", Hoarder)
    with pytest.raises(DataAccessError, match="pictures of session 0 were read after it ended"):
        run("method=ncm")


def test_kept_pictures_come_back_also_after_a_stop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import everclip.methods.ncm

    monkeypatch.setattr(everclip.methods.ncm, "Ncm", Keeper)
    monkeypatch.setattr(Keeper, "memories", [])
    folder = run("method=ncm")
    first = [int(folder.read_sessions()[i]["new_classes"]) for i in range(2)]
    assert Keeper.memories == [[], [0], [first[0], 0]]  # the first class of session 1, then that of session 0
    folder.checkpoint(2).unlink()
    folder.update_run(state="failed")
    run("method=ncm")
    assert Keeper.memories[3] == [first[0], 0]
    monkeypatch.setattr(Keeper, "sees", "session")
    with pytest.raises(DataAccessError, match="keeps pictures, but does not declare"):
        run("method=ncm", folder="undeclared")


class Curious(Ncm):
    """Looks at all that a session has, and keeps it."""

    def begin_session(self, session: Session, extract: Extract) -> None:
        if not session.is_base:
            for images in self.shown.values():
                with pytest.raises(DataAccessError, match="were read after it ended"):
                    extract(images, self.encode_image)
        self.shown = session.samples()
        self.labels = {name: extract(images, self.encode_image)[1].tolist() for name, images in self.shown.items()}

    def end_session(self, session: Session, extract: Extract) -> None:
        super().end_session(session, extract)
        assert set(self.labels["train"]) == set(self.labels["validation"]) == set(session.new.ids)
        assert set(self.labels["unlabelled"]) == {-1}  # a subset too
        assert set(session.samples()["unlabelled"].subset([0, 1]).labels.tolist()) == {-1}


def test_samples_beside_the_training_pictures_are_guarded_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import everclip.methods.ncm

    monkeypatch.setattr(everclip.methods.ncm, "Ncm", Curious)
    protocol = partial(Protocol, validation=1, base_shots=3)
    monkeypatch.setattr("everclip.data.sequences.shapes.Protocol", protocol)
    for cache in ("off", "memory"):
        assert run("method=ncm", "sequence.unlabelled=2", f"data.cache={cache}", folder=cache).state == "finished"


def test_a_view_closes_with_its_parent() -> None:
    pictures = ArrayImages(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]), "zeros")
    view = SessionView(pictures, 0)
    inner: Samples = view.subset([1, 0]).subset([0])
    assert inner.labels.tolist() == [1]
    inner.read([0], lambda image: torch.zeros(3, 4, 4, dtype=torch.uint8))
    view.close()
    with pytest.raises(DataAccessError):
        inner.read([0], lambda image: torch.zeros(3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_not_finite_stops_before_the_optimiser_moves(run: Run, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []
    original = Finetune.loss

    def broken(self: Finetune, batch: Batch) -> dict[str, torch.Tensor]:
        loss = original(self, batch)["cross_entropy"]
        if what == "loss":
            return {"cross_entropy": loss * float("nan")}
        zero = loss * 0  # finite, but sqrt has an infinite slope there
        return {"cross_entropy": loss + torch.sqrt(zero)}

    monkeypatch.setattr(Finetune, "loss", broken)
    monkeypatch.setattr(Finetune, "after_step", lambda self: moved.append(1))
    with pytest.raises(NotFiniteError, match=r"session 0, phase train, step 0: cross_entropy .*, lr 0\.0003"):
        run("method=finetune")
    assert moved == []


def test_what_the_last_step_breaks_is_not_stored(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(LinearProbe, "after_step", lambda self: self.head.rows.data.fill_(1e30))
    with pytest.raises(NotFiniteError, match=r"after training session 0, head\.rows of LinearProbe"):
        run("method=linear_probe", "train.max_steps=1")
    assert not RunFolder(tmp_path / "run").checkpoint(0).exists()
    monkeypatch.setattr(LinearProbe, "after_step", lambda self: self.head.rows.data.fill_(float("nan")))
    with pytest.raises(NotFiniteError, match=r"inside session 0, head\.rows of LinearProbe"):
        run("method=linear_probe", "train.max_steps=2", "checkpoint.every_n_steps=1")
    assert not RunFolder(tmp_path / "run").progress.exists()


def test_seeds_change_what_they_should(run: Run, finished: Run) -> None:
    first, second = finished("method=cpe_clip"), run("method=cpe_clip", "seed=1")
    assert first.read_sessions()[0]["losses"] != second.read_sessions()[0]["losses"]
    assert first.read_run()["fingerprint"] == second.read_run()["fingerprint"]


def test_task_label_space_compares_with_the_tasks_own_classes(run: Run, compose: Callable[..., Any]) -> None:
    from dataclasses import replace

    from everclip.commands import parts
    from everclip.evaluation.classification import Classification
    from everclip.training.engine import Engine
    from everclip.training.evaluation import Judge
    from tests.conftest import SMALL

    config = compose(*SMALL, "method=zero_shot")
    sequence, _, method = parts.make_parts(config, load=True)
    engine = Engine(accelerator="cpu")
    asked: list[ClassSet] = []
    original = method.classifier
    method.classifier = lambda classes: (asked.append(classes), original(classes))[1]  # type: ignore[method-assign, func-returns-value]
    alone = tuple(replace(task, evaluator=Classification("task")) for task in sequence.tasks)
    Judge(engine, replace(sequence, tasks=alone, evaluate="all", held_out=None)).evaluate(method, 0)
    assert [len(classes) for classes in asked] == [6, 2, 2]
    asked.clear()
    Judge(engine, replace(sequence, held_out=None)).evaluate(method, 2)
    assert [len(classes) for classes in asked] == [10]  # once for all tasks


def test_methods_are_told_whether_pictures_come_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Session] = []
    begin = Finetune.begin_session

    def noted(self: Finetune, session: Session, extract: Extract) -> None:
        seen.append(session)
        begin(self, session, extract)

    monkeypatch.setattr(Finetune, "begin_session", noted)
    for augment in ("none", "flip"):
        run("method=finetune", f"train.augment={augment}", "max_sessions=1", folder=augment)
    assert [(session.repeats, session.recurs) for session in seen] == [(2, True), (2, False)]
