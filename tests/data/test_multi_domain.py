"""Sequences whose sessions are data sets of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, open_dict
from torchvision.transforms import PILToTensor

from everclip.commands import execute
from everclip.config.build import build
from everclip.config.checks import check_group
from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.spec import spec
from everclip.data.drawing import shapes
from everclip.data.images import ArrayImages
from everclip.data.sequences import multi_domain
from everclip.data.sequences.shapes import DOMAINS, multi_domain_shapes
from everclip.errors import ConfigError
from everclip.runs.folder import RunFolder
from everclip.types import ClassSet, TaskSequence
from tests.data.conftest import MakeDataset, candidates

Compose = Callable[..., DictConfig]


def small(cache: Path, **changes: object) -> TaskSequence:
    options: dict[str, object] = {
        "name": "small", "domains": ["quilts", "night_sky"], "num_classes": 3, "shots": None, "train_per_class": 3,
        "test_per_class": 2, "cache_dir": str(cache),
    }  # fmt: skip
    return multi_domain_shapes(**(options | changes))  # type: ignore[arg-type]  # keywords of one test


def test_shapes_mtil_is_six_domains_of_unseen_classes(compose: Compose) -> None:
    config = compose("sequence=shapes_mtil")
    check_group("sequence", config.sequence)
    sequence: TaskSequence = build("sequence", config.sequence)
    assert [session.name for session in sequence.sessions] == list(DOMAINS)
    assert [len(session.train) for session in sequence.sessions] == [160] * 6
    assert [len(task.samples) for task in sequence.tasks] == [150] * 6
    assert sequence.sessions[-1].seen.ids == tuple(range(60))
    assert [len(session.seen) for session in sequence.sessions] == [10, 20, 30, 40, 50, 60]
    names = sequence.sessions[-1].seen.names
    assert len(set(names)) == 60
    assert set(names) < set(shapes.all_class_names()[shapes.SEQUENCE_CLASSES])
    assert sequence.held_out is not None
    assert set(sequence.held_out.classes.ids).isdisjoint(range(60))


def test_every_domain_keeps_its_style_labels_and_templates(cache_dir: Path) -> None:
    sequence = small(cache_dir)
    for index, (name, task) in enumerate(zip(["quilts", "night_sky"], sequence.tasks, strict=True)):
        session = sequence.sessions[index]
        assert task.classes == session.new == ClassSet(task.classes.ids, task.classes.names, DOMAINS[name][1])
        assert task.samples.labels.tolist() == np.repeat(range(3 * index, 3 * index + 3), 2).tolist()
        assert set(session.train.labels) == set(session.new.ids)
        drawn = shapes.render(task.classes.names[1], 2, seed=0, split=1, style=shapes.STYLES[name])
        pictures = task.samples.read([3], PILToTensor()).images
        assert torch.equal(pictures[0].permute(1, 2, 0), torch.from_numpy(drawn[1]))
    seen = sequence.sessions[1].seen
    assert seen == ClassSet.union([sequence.sessions[0].new, sequence.sessions[1].new])
    assert seen.own_templates[3] == DOMAINS["night_sky"][1]


def test_all_domains_are_evaluated_among_their_own_classes_or_the_union(cache_dir: Path) -> None:
    known, unknown = small(cache_dir), small(cache_dir, candidates="union")
    assert [list(known.evaluated(session)) for session in (0, 1)] == [[0, 1], [0, 1]]
    for session, task in product((0, 1), (0, 1)):
        assert candidates(known, session, task) == known.sessions[task].new
        assert candidates(unknown, session, task) == unknown.sessions[1].seen
    assert known.fingerprint() != unknown.fingerprint()


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"shots": 2}, {"domains": ["night_sky", "quilts"]}, {"num_classes": 2}, {"test_per_class": 3}],
    ids=lambda changes: next(iter(changes)),
)
def test_the_fingerprint_covers_domains_and_draws(changes: dict[str, object], cache_dir: Path) -> None:
    assert small(cache_dir, **changes).fingerprint() != small(cache_dir).fingerprint()
    assert small(cache_dir).fingerprint() == small(cache_dir).fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"domains": ["quilts", "quilts"]},
            r"sequence\.domains=\['quilts', 'quilts'\]: must be one or more, each once",
        ),
        ({"domains": []}, r"sequence\.domains=\[\]: must be one or more"),
        ({"domains": ["oil"]}, r"sequence\.domains=\['oil'\]: must be some of playing_cards"),
        ({"num_classes": 11}, r"sequence\.num_classes=11: a domain has 10"),
        ({"shots": 4}, r"sequence\.shots=4 exceeds sequence\.train_per_class=3"),
    ],
)
def test_impossible_domains(changes: dict[str, object], message: str, cache_dir: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        small(cache_dir, **changes)


def test_pictures_of_an_earlier_version_are_unchanged() -> None:
    """The embedded weights and recorded results belong to these pictures."""
    drawn = shapes.render("striped red star", 2, seed=0, split=0, style=shapes.STYLES["scenes"])
    assert drawn[:, ::9, ::9].sum((1, 2)).tolist() == [[2356, 1676, 2082], [2703, 2605, 2611]]


def test_subsets_of_a_domain_keep_its_labels() -> None:
    pixels = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
    images = ArrayImages(pixels, np.array([0, 0, 1, 1]), "x")
    sequence = multi_domain.build("two", [LabelledImages(n, ("a", "b"), ("{}",), images, images) for n in "xy"])
    part = sequence.sessions[1].train.subset([3, 0])
    assert part.labels.tolist() == [3, 2]
    assert part.read([0], PILToTensor()).images[0, 0, 0, 0] == 36


def test_any_data_sets_become_domains(make_dataset: MakeDataset) -> None:
    few, many = make_dataset(2, train=3, name="few"), make_dataset(3, train=20, name="many")
    sequence = multi_domain.multi_domain(name="two", domains=[few, many], shots=16)
    assert [session.name for session in sequence.sessions] == ["few", "many"]
    assert [len(session.train) for session in sequence.sessions] == [6, 48]  # a class with fewer than 16 gives all
    assert sequence.sessions[1].seen.own_templates == (few.templates,) * 2 + (many.templates,) * 3
    shared = multi_domain.multi_domain(name="two", domains=[few, many], shots=16, templates=["a {}."])
    assert (shared.sessions[1].seen.templates, shared.sessions[1].seen.own_templates) == (("a {}.",), ())
    coop = multi_domain.multi_domain(name="two", domains=[few, many], shots=16, draw="coop")
    assert len({other.fingerprint() for other in (sequence, shared, coop)}) == 3


@pytest.mark.parametrize(
    ("name", "domains", "split"), [("mtil_order1", 11, "mtil"), ("mtil_order2", 11, "mtil"), ("xtail", 10, "coop")]
)
def test_the_published_sequences_of_domains(name: str, domains: int, split: str, compose: Compose) -> None:
    sequence = compose(f"sequence={name}").sequence
    readers = [node._target_.split(".")[-2] for node in sequence.domains]
    assert len(set(readers)) == domains
    assert {node.split for node in sequence.domains if "mnist" not in node._target_} == {split}
    assert (readers[0], readers[-1]) == {
        "mtil_order1": ("fgvc_aircraft", "sun397"),
        "mtil_order2": ("stanford_cars", "cifar100"),
        "xtail": ("fgvc_aircraft", "sun397"),
    }[name]
    assert sequence.candidates == ("union" if name == "xtail" else "domain")
    check_group("sequence", sequence)


@pytest.mark.parametrize(
    ("command", "prompts"),
    [
        (
            "sequence=xtail",  # linghan1997/Regression-based-Analytic-Incremental-Learning @ eaac644
            ["a photo of a River satellite location.", 'a photo of a number: "0 - zero".', "a photo of a dotted."],
        ),
        (
            "+experiment=codyra/xtail",  # Artificer-AI-Lab/CoDyRA @ c1691e4
            [
                "a centered satellite photo of River satellite location.",
                'a photo of the number: "number: "0 - zero"".',
                "dotted texture.",
            ],
        ),
        (
            "sequence=mtil_order1 sequence.names={dtd:'{} cloth'}",  # any names of one's own
            ["a centered satellite photo of River.", 'a photo of the number: "0 - zero".', "dotted cloth texture."],
        ),
    ],
    ids=["rail", "codyra", "own"],
)
def test_prompts_are_those_of_the_publication(
    command: str, prompts: list[str], compose: Compose, make_dataset: MakeDataset
) -> None:
    sequence = compose(*command.split(" ", 1)).sequence
    names = {"eurosat": ("coop", "River"), "mnist": ("mtil", "0 - zero"), "dtd": ("coop", "dotted")}
    domains = [
        replace(make_dataset(1, name=key), names=(name,), templates=spec(key).splits[split].templates)
        for key, (split, name) in names.items()
    ]
    made = multi_domain.multi_domain(name="texts", domains=domains, names=sequence.names, templates=sequence.templates)
    assert [text for task in made.tasks for text in task.classes.prompts(task.classes.templates[0])] == prompts
    with pytest.raises(
        ConfigError, match=r"sequence\.names: sun is no domain of the sequence; there are: \['eurosat', 'mnist'"
    ):
        multi_domain.multi_domain(name="texts", domains=domains, names={"sun": "{}"})


def test_a_run_ends_with_transfer_avg_and_last(compose: Compose, tmp_path: Path) -> None:
    composed = compose(
        "sequence=shapes_mtil", "sequence.domains=[quilts,night_sky]", "sequence.num_classes=3",
        "sequence.train_per_class=2", "method=zero_shot", "logger=none", "trainer=cpu",
    )  # fmt: skip
    hydra = composed.hydra
    with open_dict(composed):
        del composed["hydra"]
    folder = RunFolder(tmp_path / "run")
    execute.run(composed, hydra, folder)
    summary = json.loads((folder.path / "summary.json").read_text())
    matrix = np.loadtxt(folder.path / "accuracy_matrix.csv", delimiter=",", skiprows=1)[:, 1:]
    assert matrix.shape == (2, 2)
    assert summary["transfer"] == pytest.approx(matrix[0, 1])
    assert summary["last"] == pytest.approx(matrix[1].mean())
    assert summary["avg"] == pytest.approx(matrix.mean())
