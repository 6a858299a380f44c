"""Runs on other kinds of samples than labelled pictures: the same methods, unchanged; what cannot be is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from everclip.commands import parts
from everclip.data.sequences.drawn_kinds import dense_shapes, retrieval_shapes
from everclip.errors import ConfigError
from everclip.methods.base import Method
from everclip.runs.folder import RunFolder
from everclip.runs.scores import table_of
from everclip.training.checkpoint import load_session
from everclip.training.evaluation import check_fit
from tests.conftest import run_words

KINDS = {
    "retrieval": ("sequence=shapes_retrieval", "sequence.domains=[cards,quilts]", "sequence.train_scenes=16",
                  "sequence.test_scenes=12"),
    "clips": ("sequence=shapes_clips", "sequence.kinds=[appearance,motion]", "sequence.train_per_class=2",
              "sequence.test_per_class=4", "sequence.frames=4"),
    "dense": ("sequence=shapes_dense", "sequence.num_sessions=2", "sequence.way=3", "sequence.train_scenes=8",
              "sequence.test_scenes=8"),
    "ordering": ("sequence=shapes_ordering", "sequence.attributes=[number,redness]", "sequence.train_pictures=8",
                 "sequence.test_pictures=6"),
}  # fmt: skip
ENTRIES = {"retrieval": "mean_recall", "clips": "accuracy", "dense": "miou", "ordering": "srcc"}
LOSSES = {"retrieval": ["contrastive"], "ordering": ["rank", "regression"]}
SHORT = ("train.epochs=2", "train.base.epochs=2", "train.batch_size=8", "trainer=cpu", "logger=none")


def run_kind(place: Path, cache_dir: Path, kind: str, *words: str) -> RunFolder:
    return run_words(place / "run", cache_dir, *KINDS[kind], *SHORT, *words)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["zero_shot", "finetune", "lora"])
def test_a_method_learns_what_a_sequence_asks_for(kind: str, method: str, tmp_path: Path, cache_dir: Path) -> None:
    folder = run_kind(tmp_path, cache_dir, kind, f"method={method}")
    records, entry = folder.read_sessions(), ENTRIES[kind]
    table = table_of(records)
    assert table.matrix(entry).shape == (2, 2)
    assert folder.read_summary()[f"{entry}_per_session"] == [record[entry] for record in records]
    trained = LOSSES.get(kind, ["cross_entropy"])
    assert [list(record["losses"]) for record in records] == [[] if method == "zero_shot" else trained] * 2
    if method != "zero_shot":
        assert table.matrix(entry)[0, 0] != 0
        assert min(records[0]["losses"].values()) > 0
    assert (folder.path / ("accuracy_matrix.csv" if kind == "clips" else f"{entry}_matrix.csv")).is_file()


def test_the_start_is_known_to_a_run_that_goes_on(tmp_path: Path, cache_dir: Path) -> None:
    folder = run_kind(tmp_path, cache_dir, "retrieval", "method=finetune")
    records = folder.read_sessions()
    changed = [[task["scores"]["image_cka"]["value"] for task in record["tasks"]] for record in records]
    assert all(0 < value < 1 - 1e-6 for row in changed for value in row)
    assert changed[0] != changed[1]
    folder.update_run(state="running")
    (folder.path / "summary.json").unlink()
    folder.write_sessions(records[:1], 2, "mean_recall")  # killed between the second session's training and its record
    again = run_kind(tmp_path, cache_dir, "retrieval", "method=finetune")
    assert [record["tasks"] for record in again.read_sessions()] == [record["tasks"] for record in records]


@pytest.mark.parametrize("lost", ["record", "file", "damaged", "checkpoint"])
def test_stored_pictures_are_known_to_a_run_that_goes_on(lost: str, tmp_path: Path, cache_dir: Path) -> None:
    words = ("method=finetune", "sequence.stored=true")
    folder = run_kind(tmp_path, cache_dir, "retrieval", *words)
    records, table = folder.read_sessions(), table_of(folder.read_sessions())
    own, now = table.matrix("own_stored_t2i_r1"), table.matrix("t2i_r1")
    assert np.isnan(own[0, 1])  # its session is yet to come
    assert own.diagonal().tolist() == now.diagonal().tolist()
    assert own[1, 0] != now[1, 0]  # the tower has changed since
    of_sessions = [record["stored_t2i_r1"] for record in records]
    assert folder.read_summary()["average_stored_t2i_r1"] == pytest.approx(sum(of_sessions) / 2)
    assert folder.read_summary()["stored_forgetting"] == pytest.approx(own[0, 0] - own[1, 0])
    folder.update_run(state="running")
    (folder.path / "summary.json").unlink()
    folder.write_sessions(records if lost == "checkpoint" else records[:1], 2, "mean_recall")
    if lost == "checkpoint":
        folder.checkpoint(1).unlink()
    elif lost == "file":
        folder.kept(0).unlink()
    elif lost == "damaged":
        folder.kept(0).write_bytes(folder.kept(0).read_bytes()[:-1])
    again = run_kind(tmp_path, cache_dir, "retrieval", *words)
    assert [record["tasks"] for record in again.read_sessions()] == [record["tasks"] for record in records]


CHANCE = {"clips": 100 / 12, "dense": 100 / (2 * 5 - 1)}  # of 12 classes; mIoU of one class of 5 per pixel at random


@pytest.mark.slow
def test_the_embedded_backbone_is_above_chance_but_on_motion(tmp_path: Path, cache_dir: Path) -> None:
    def first_rows(name: str, *words: str) -> dict[str, list[float]]:
        plain = (f"sequence={name}", "method=zero_shot", "trainer=cpu", "logger=none")
        folder = run_words(tmp_path / name / "run", cache_dir, *plain, *words)
        table = table_of(folder.read_sessions())
        return {score: table.matrix(score)[-1].tolist() for score in table.names}

    recalls = first_rows("shapes_retrieval", "max_sessions=1")
    assert all(recall > 2 * 1 for recall in recalls["t2i_r1"] + recalls["i2t_r1"])  # chance 1 %
    assert all(recall > 2 * 10 for recall in recalls["t2i_r10"])  # chance 10 %
    few = ("max_sessions=1", "sequence.train_per_class=1", "sequence.test_per_class=8")
    appearance, motion, mixed = first_rows("shapes_clips", *few)["accuracy"]
    assert min(appearance, mixed) > 3 * CHANCE["clips"]
    assert motion < 2 * 100 / 6  # six motions: the mean over frames tells next to nothing
    assert first_rows("shapes_dense", "max_sessions=1")["miou"][0] > 1.5 * CHANCE["dense"]


@pytest.mark.parametrize(
    ("kind", "method", "text"),
    [
        ("retrieval", "codyra", "Codyra learns from class labels, but shapes_retrieval has image-text pairs"),
        ("dense", "ncm", "Ncm learns from class labels, but shapes_dense has masks"),
        ("ordering", "ncm", "Ncm learns from class labels, but shapes_ordering has pictures with values"),
        (
            "dense",
            "ranking_adapter",
            "RankingAdapter learns from class labels or pictures with values, but shapes_dense",
        ),
        ("clips", "l2p", "L2p adapts to single pictures, but shapes_clips has clips of several frames"),
    ],
)
def test_what_a_method_cannot_do_is_refused(
    kind: str, method: str, text: str, compose: Callable[..., DictConfig]
) -> None:
    composed = compose(*KINDS[kind], f"method={method}")
    with pytest.raises(ConfigError, match=text):
        parts.make_parts(composed, load=False)


class PairLearner(Method):
    learns_pairs = True


def test_a_method_may_learn_pairs_by_a_loss_of_its_own() -> None:
    few = {"train_scenes": 2, "test_scenes": 2}
    check_fit(PairLearner, retrieval_shapes(name="pairs", domains=["cards"], **few), "none")
    masks = dense_shapes(name="masks", num_sessions=1, way=2, **few)
    with pytest.raises(ConfigError, match="PairLearner learns from class labels or image-text pairs, but masks has"):
        check_fit(PairLearner, masks, "none")


def test_augmentation_would_tear_masks_off(compose: Callable[..., DictConfig]) -> None:
    composed = compose(*KINDS["dense"], "method=finetune", "train.augment=flip")
    with pytest.raises(ConfigError, match=r"train\.augment=flip moves pictures away from their masks"):
        parts.make_parts(composed, load=False)


def test_micro_batches_of_pairs_compare_the_whole_batch(tmp_path: Path, cache_dir: Path) -> None:
    words = ("method=lora", "optimizer=sgd", "optimizer.lr=0.1", "max_sessions=1", "train.batch_size=7")
    whole, parts = (
        run_kind(tmp_path / str(count), cache_dir, "retrieval", *words, f"trainer.accumulate={count}")
        for count in (1, 3)
    )
    assert whole.read_sessions()[0]["losses"] == pytest.approx(parts.read_sessions()[0]["losses"], rel=1e-5)
    first, second = (load_session(folder.checkpoint(0))[0] for folder in (whole, parts))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5)
