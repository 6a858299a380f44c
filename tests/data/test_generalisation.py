"""Sequences that are judged by data sets besides the one they train on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from omegaconf import DictConfig, open_dict
from torchvision.transforms import PILToTensor

from everclip.commands import execute
from everclip.config.build import build
from everclip.config.checks import check_group
from everclip.data.datasets.imagenet_folders import names_of, wnids
from everclip.data.images import Relabelled
from everclip.data.sequences.generalisation import cross_dataset, domain_generalisation
from everclip.errors import ConfigError
from everclip.runs.folder import RunFolder
from everclip.types import ClassSet, TaskSequence
from tests.data.conftest import MakeDataset, candidates
from tests.data.datasets import replicas

Compose = Callable[..., DictConfig]


def test_other_data_sets_have_classes_and_prompts_of_their_own(make_dataset: MakeDataset) -> None:
    source, first, second = (make_dataset(n, train=4, name=name) for n, name in ((3, "s"), (2, "a"), (2, "b")))
    second = replace(second, names=("s 0", "b 1"))  # called as one of the source is
    sequence = cross_dataset(name="x", source=source, targets=[first, second], shots=2, seed=1)
    assert (len(sequence.sessions), sequence.sessions[0].seen.ids) == (1, (0, 1, 2))
    assert len(sequence.sessions[0].train) == 6
    assert [(task.name, task.session) for task in sequence.tasks] == [("s", 0), ("a", None), ("b", None)]
    assert [candidates(sequence, 0, task) for task in range(3)] == [
        ClassSet((0, 1, 2), source.names, source.templates),
        ClassSet((3, 4), first.names, first.templates),
        ClassSet((5, 6), ("s 0", "b 1"), second.templates),
    ]
    assert [sorted(set(task.samples.labels.tolist())) for task in sequence.tasks] == [[0, 1, 2], [3, 4], [5, 6]]
    assert sequence.evaluated(0) == [0, 1, 2]
    shared = cross_dataset(name="x", source=source, targets=[first], templates=["a {}."])
    assert {task.classes.templates for task in shared.tasks} == {("a {}.",)}


def test_other_domains_have_the_classes_of_the_source_or_some_of_them(make_dataset: MakeDataset) -> None:
    source = make_dataset(4, train=4, name="s")
    whole = replace(make_dataset(4, name="whole"), names=source.names)
    part = replace(make_dataset(2, name="part"), names=("s 3", "s 1"))
    sequence = domain_generalisation(name="x", source=source, targets=[whole, part], shots=2, seed=1)
    assert [task.classes.ids for task in sequence.tasks] == [(0, 1, 2, 3), (0, 1, 2, 3), (3, 1)]
    assert [task.samples.labels.tolist() for task in sequence.tasks[1:]] == [[0, 1, 2, 3] * 2, [3, 1] * 2]
    assert {task.classes.templates for task in sequence.tasks} == {source.templates}
    for targets, message in (
        ([make_dataset(2, name="other")], "other has the class 'other 0', which s does not have"),
        ([whole, whole], "must be one or more, each once"),
    ):
        with pytest.raises(ConfigError, match=message):
            domain_generalisation(name="x", source=source, targets=targets)


def test_classes_of_imagenet_that_share_a_name_are_told_apart() -> None:
    """Two names of CLIP's list stand for two classes each; every relative has both, or the first alone."""
    every = ClassSet(tuple(range(1000)), names_of(wnids()))
    for name in ("imagenet_a", "imagenet_r"):
        chosen = replicas.wnids_of(name)
        own = every.adopt(ClassSet(tuple(range(200)), names_of(chosen)))
        assert own.ids == tuple(wnids().index(wnid) for wnid in chosen)
    assert every.adopt(every).ids == every.ids


def test_relabelled_samples_keep_their_labels_in_any_part(make_dataset: MakeDataset) -> None:
    samples = Relabelled(make_dataset(3).test, (7, 5, 9))
    assert samples.subset([4, 0]).labels.tolist() == [5, 7]
    batch = samples.subset([4, 0]).read([1, 0], PILToTensor())
    assert (batch.labels.tolist(), batch.images[:, 0, 0, 0].tolist()) == ([7, 5], [0, 4])
    assert samples.fingerprint() != Relabelled(make_dataset(3).test, (7, 5, 8)).fingerprint()


def test_the_published_sequences(compose: Compose) -> None:
    composed = {name: compose(f"sequence={name}").sequence for name in ("cross_dataset", "domain_generalisation")}
    readers = {name: [t._target_.split(".")[-2] for t in sequence.targets] for name, sequence in composed.items()}
    assert readers["domain_generalisation"] == ["imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
    assert len(set(readers["cross_dataset"])) == 10
    for sequence in composed.values():
        assert (sequence.source._target_, sequence.shots) == ("everclip.data.datasets.imagenet.load", 16)
        check_group("sequence", sequence)


def test_the_embedded_sequences(compose: Compose) -> None:
    crossed, shifted = (
        compose(f"sequence=shapes_{name}").sequence for name in ("cross_dataset", "domain_generalisation")
    )
    for sequence in (crossed, shifted):
        check_group("sequence", sequence)
        for target in (sequence.source, *sequence.targets):
            target.test_per_class = 1
        sequence.source.train_per_class = 1
    across: TaskSequence = build("sequence", crossed)
    within: TaskSequence = build("sequence", shifted)
    kinds = [{name.split()[-1] for name in task.classes.names} for task in across.tasks]
    assert not kinds[0] & set().union(*kinds[1:])
    assert [len(task.classes) for task in across.tasks] == [40, 10, 10, 10]
    assert [len(task.classes) for task in within.tasks] == [40, 40, 40, 8, 8]


def test_a_method_of_trained_classes_knows_them_in_other_domains(compose: Compose, tmp_path: Path) -> None:
    words = (
        "sequence=shapes_domain_generalisation",
        "method=linear_probe",
        "train.epochs=1",
        "logger=none",
        "trainer=cpu",
    )
    composed = compose(*words)
    hydra = composed.hydra
    with open_dict(composed):
        del composed["hydra"]
    for target in (composed.sequence.source, *composed.sequence.targets):
        target.num_classes, target.test_per_class = 2, 2
    folder = RunFolder(tmp_path / "run")
    with patch("everclip.reporting.results.write_plots", return_value=[]):
        execute.run(composed, hydra, folder)
    summary = json.loads((folder.path / "summary.json").read_text())
    assert {"source_accuracy", "target_accuracy"} <= summary.keys()
