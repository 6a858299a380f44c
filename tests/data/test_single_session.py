"""The one-session sequences of prompt learning."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig
from torchvision.transforms import PILToTensor

from everclip.config.build import build
from everclip.config.catalogue import option_names, read_option
from everclip.config.checks import check_group
from everclip.config.identity import choices, digest
from everclip.data.captions.samples import CaptionedData
from everclip.data.datasets import oxford_pets
from everclip.data.images import FileImages
from everclip.data.sequences.shots import choose_shots
from everclip.data.sequences.single_session import base_to_novel, few_shot, transductive
from everclip.data.validation import hold_out
from everclip.errors import ConfigError, DataError, MissingError
from everclip.methods.finetune import Finetune
from everclip.methods.ncm import Ncm
from everclip.methods.zero_shot import ZeroShot
from everclip.training.evaluation import check_fit
from everclip.training.phases import Budget, Training
from everclip.training.schedules import Schedule
from everclip.types import Samples, TaskSequence
from tests.data.conftest import MakeDataset, candidates
from tests.data.datasets import replicas

Compose = Callable[..., DictConfig]
GOLDEN = Path(__file__).parents[1] / "golden"


def test_few_shot_is_one_session_of_all_classes(make_dataset: MakeDataset) -> None:
    sequence = few_shot(dataset=make_dataset(5, train=8), shots=4, seed=2)
    assert (len(sequence.sessions), len(sequence.tasks)) == (1, 1)
    session = sequence.sessions[0]
    assert session.new == session.seen == candidates(sequence, 0, 0)
    assert np.bincount(session.train.labels).tolist() == [4] * 5
    assert len(sequence.tasks[0].samples) == 10
    assert len(few_shot(dataset=make_dataset(5, train=8), shots=16).sessions[0].train) == 40


@pytest.mark.parametrize(("classes", "base"), [(5, 3), (6, 3)])
def test_base_to_novel_halves_the_classes(classes: int, base: int, make_dataset: MakeDataset) -> None:
    dataset = make_dataset(classes, train=8)
    sequence = base_to_novel(dataset=dataset, shots=4, seed=2)
    session, (of_base, of_novel) = sequence.sessions[0], sequence.tasks
    assert session.new.ids == session.seen.ids == of_base.classes.ids == tuple(range(base))
    assert of_novel.classes.ids == tuple(range(base, classes))
    assert set(session.train.labels) == set(of_base.samples.labels) == set(range(base))
    assert set(of_novel.samples.labels) == set(range(base, classes))
    assert list(sequence.evaluated(0)) == [0, 1]
    assert [candidates(sequence, 0, task) for task in (0, 1)] == [of_base.classes, of_novel.classes]


def pixels(samples: Samples | None) -> list[int]:
    """The pictures, which are their numbers in the data set."""
    assert samples is not None
    return samples.read(range(len(samples)), PILToTensor()).images.flatten(1)[:, 0].tolist()


def test_pictures_beside_the_shots_come_without_labels(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(5, train=8)
    session = few_shot(dataset=dataset, shots=2, unlabelled="rest").sessions[0]
    train, rest = pixels(session.train), pixels(session.unlabelled)
    assert (len(train), sorted(train + rest)) == (10, list(range(40)))
    assert rest != sorted(rest, key=lambda number: (number % 5, number))  # a sorted order would tell the classes
    assert train == pixels(few_shot(dataset=dataset, shots=2).sessions[0].train)
    assert session.classes == session.new
    with pytest.raises(DataError, match=r"no pictures are left beside those trained on, unlabelled=rest"):
        few_shot(dataset=dataset, shots=None, unlabelled="rest")
    some = few_shot(dataset=dataset, shots=2, unlabelled=3, seed=2).sessions[0].unlabelled
    assert np.bincount(np.array(pixels(some)) % 5).tolist() == [3] * 5


def test_without_shots_no_class_has_labels(make_dataset: MakeDataset) -> None:
    sequence = few_shot(dataset=make_dataset(5, train=8), shots=0, unlabelled="rest")
    session = sequence.sessions[0]
    assert (len(session.train), len(session.classes), session.num_samples) == (0, 0, 40)
    assert session.without_labels == session.new == candidates(sequence, 0, 0)
    with pytest.raises(ConfigError, match=r"shots=0 and sequence\.unlabelled=0 leave no pictures"):
        few_shot(dataset=make_dataset(5), shots=0)
    with pytest.raises(DataError, match="with labels, of which session made has none"):
        hold_out(sequence, 0.2)
    budget = Budget(5, 32)
    assert Training(budget, budget, torch.optim.SGD, Schedule()).repeats(session) == 0
    check_fit(ZeroShot, sequence, "none")
    with pytest.raises(ConfigError, match="Ncm learns classes from pictures with labels, but few_shot_made has none"):
        check_fit(Ncm, sequence, "none")


def test_transductive_classes_have_labels_or_pictures_without(make_dataset: MakeDataset) -> None:
    sequence = transductive(dataset=make_dataset(10, train=4))
    session, (of_labelled, of_hidden) = sequence.sessions[0], sequence.tasks
    assert session.classes.ids == of_labelled.classes.ids == (0, 2, 3, 4, 5, 9)  # the code's for MNIST and this seed
    assert session.without_labels.ids == of_hidden.classes.ids == (1, 6, 7, 8)
    assert sorted(pixels(session.train)) == [n for n in range(40) if n % 10 in session.classes.ids]
    assert sorted(pixels(session.unlabelled)) == [n for n in range(40) if n % 10 in session.without_labels.ids]
    assert [candidates(sequence, 0, task) for task in sequence.evaluated(0)] == [session.new, session.new]
    assert transductive(dataset=make_dataset(10, train=4), unlabelled=2).fingerprint() != sequence.fingerprint()
    check_fit(Finetune, sequence, "none")  # names are enough to score a class by
    with pytest.raises(ConfigError, match="transductive_made has none of 'made 1'"):
        check_fit(Ncm, sequence, "none")
    with pytest.raises(ConfigError, match=r"sequence\.labelled=0\.05 of 10 classes is none"):
        transductive(dataset=make_dataset(10), labelled=0.05)


def test_base_classes_get_the_pictures_that_coop_draws_for_all(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(5, train=8)
    drawn = choose_shots(dataset.train.labels, 4, 2, "coop")
    kept = dataset.train.subset(drawn[dataset.train.labels[drawn] < 3])
    chosen = base_to_novel(dataset=dataset, shots=4, seed=2).sessions[0].train
    assert chosen.fingerprint() == kept.fingerprint()


def coop_pets(root: Path, golden: dict[str, list[int]]) -> None:
    """The pictures and the split file that the official code was run on."""
    folder = root / "oxford_pets"
    split = {
        part: [[f"{part}_{i}.jpg", label, f"class_{label}"] for i, label in enumerate(labels)]
        for part, labels in golden.items()
    }
    replicas.put_pictures(folder / "images", [item[0] for own in split.values() for item in own])
    replicas.put(folder / "split_zhou_OxfordPets.json", json.dumps(split))


def numbers(samples: Samples | None) -> list[int]:
    assert isinstance(samples, FileImages)
    return [int(path.stem.split("_")[1]) for path in samples.paths]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("shots", [1, 8])
def test_sessions_are_those_of_coops_code(seed: int, shots: int, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / "coop_single_session.json").read_text())
    coop_pets(tmp_path, golden["labels"])
    pets = oxford_pets.load(root=str(tmp_path))
    whole = few_shot(dataset=pets, shots=shots, seed=seed, validation="few")
    halves = base_to_novel(dataset=pets, shots=shots, seed=seed, validation="few")
    found = {
        part: {
            "train": numbers(sequence.sessions[0].train),
            "val": numbers(sequence.sessions[0].validation),
            "test": numbers(sequence.tasks[0].samples),
        }
        for part, sequence in (("all", whole), ("base", halves))
    }
    assert found == {part: golden["chosen"][f"seed{seed}_shots{shots}_{part}"] for part in found}
    assert numbers(halves.tasks[1].samples) == golden["chosen"][f"seed{seed}_shots{shots}_new"]["test"]


def test_validation_pictures_are_the_splits_or_else_what_training_leaves(make_dataset: MakeDataset) -> None:
    plain = make_dataset(3, train=8)
    given = replace(plain, val=make_dataset(3, train=6, name="val").train)
    for dataset, shots, validation, count in (
        (given, 5, "few", 4), (given, 2, "few", 2), (given, 5, "all", 6),
        (plain, 5, "few", 3), (plain, 2, "few", 2), (plain, 2, "all", 6),
    ):  # fmt: skip
        session = few_shot(dataset=dataset, shots=shots, validation=validation).sessions[0]
        assert session.validation is not None
        assert np.bincount(session.validation.labels).tolist() == [count] * 3
    parts = few_shot(dataset=plain, shots=2, validation="few", unlabelled="rest").sessions[0].samples()
    assert {name: len(part) for name, part in parts.items()} == {"train": 6, "validation": 6, "unlabelled": 12}
    shown = [part.read(range(len(part)), PILToTensor()).images for part in parts.values()]
    assert sorted(torch.cat(shown)[:, 0, 0, 0].tolist()) == list(range(24))
    assert few_shot(dataset=plain).sessions[0].validation is None
    with pytest.raises(ConfigError, match=r"sequence\.validation=few: made has no validation pictures and no training"):
        few_shot(dataset=plain, shots=8, validation="few")
    nothing = replace(plain, train=plain.train.subset([]))
    with pytest.raises(ConfigError, match="made has no training pictures; it is a target of"):
        few_shot(dataset=nothing)


def test_released_lists_are_read_as_they_are(tmp_path: Path) -> None:
    """The form that FarinaMatteo/rethinking_fewshot_vlms @ 64ac143 reads, a picture twice where a class has too few."""
    golden = json.loads((GOLDEN / "coop_single_session.json").read_text())
    coop_pets(tmp_path, golden["labels"])
    pets = oxford_pets.load(root=str(tmp_path))
    chosen = {"train": [7, 59, 7, 20], "val": [22, 3]}

    def write(part: str, change: int = 0) -> Path:
        path = tmp_path / "oxford_pets/split_fewshot" / f"shot_4-seed_3_{part}.jsonl"
        lines = [
            {
                "_impath": f"oxford_pets/images/{part}_{number}.jpg", "_label": golden["labels"][part][number] + change,
                "_domain": 0, "_classname": "any",
            }
            for number in chosen[part]
        ]  # fmt: skip
        replicas.put(path, "".join(json.dumps(line) + "\n" for line in lines))
        return path

    options: dict[str, Any] = {"dataset": pets, "shots": 4, "seed": 3, "draw": "released", "validation": "few"}
    with pytest.raises(MissingError, match=r"oxford_pets/split_fewshot/shot_4-seed_3_train\.jsonl is not there"):
        few_shot(**options)
    write("train")
    write("val")
    session = few_shot(**options).sessions[0]
    assert {"train": numbers(session.train), "val": numbers(session.validation)} == chosen
    base = base_to_novel(**options).sessions[0]
    assert numbers(base.train) == [n for n in chosen["train"] if golden["labels"]["train"][n] < 3]
    path = write("train", change=1)
    with pytest.raises(
        DataError, match=r"shot_4-seed_3_train\.jsonl, line 1: .*train_7\.jpg is no train picture of class"
    ):
        few_shot(**options)
    path.write_text("[]\n")
    with pytest.raises(DataError, match=r"line 1: '\[\]' has not the published form"):
        few_shot(**options)
    with pytest.raises(ConfigError, match=r"sequence\.draw=released needs sequence\.shots=1, 2, 4, 8 or 16"):
        few_shot(**(options | {"shots": None}))


@pytest.mark.parametrize("protocol", ["few_shot", "base_to_novel"])
def test_the_data_set_and_the_seed_come_from_the_command_line(protocol: str, compose: Compose) -> None:
    words = [f"sequence={protocol}", "sequence.dataset.train_per_class=3", "sequence.dataset.test_per_class=2"]
    configs = [compose(*words, "sequence.shots=2", f"seed={seed}") for seed in (1, 2)]
    for config in configs:
        check_group("sequence", config.sequence)
    sequences: list[TaskSequence] = [build("sequence", config.sequence) for config in configs]
    assert len(sequences[0].sessions[0].train) == (200 if protocol == "few_shot" else 100)
    assert sequences[0].fingerprint() != sequences[1].fingerprint()  # other pictures,
    assert digest(configs[0]) == digest(configs[1])  # yet one row of a table: the mean over seeds
    assert choices(configs[0].hydra)["sequence"] == f"{protocol}_shapes"
    other = compose(f"sequence={protocol}", "sequence/dataset=cifar100", "paths.data=/data")
    assert choices(other.hydra)["sequence"] == f"{protocol}_cifar100"
    assert other.sequence.dataset == {
        "_target_": "everclip.data.datasets.cifar100.load", "root": "/data", "split": "official",
    }  # fmt: skip


@pytest.mark.parametrize("name", option_names("sequence/dataset"))
def test_every_data_set_can_be_chosen(name: str, compose: Compose) -> None:
    reader = get_object(read_option("sequence/dataset", name)["_target_"])
    of_pairs = get_type_hints(reader)["return"] is CaptionedData
    composed = compose(
        f"sequence={'pairs' if of_pairs else 'few_shot'}", f"sequence/dataset={name}", "paths.data=/data"
    )
    if name == "own_pairs":
        composed.sequence.dataset.root = "photos"
    check_group("sequence", composed.sequence)


def test_an_ordinary_sequence_keeps_its_name(compose: Compose, tmp_path: Path) -> None:
    assert choices(compose("sequence=shapes_cil").hydra)["sequence"] == "shapes_cil"
