"""Orders of classes, choices of pictures, and how both make sessions."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from torchvision.transforms import PILToTensor

from everclip.data.sequences import orders
from everclip.data.sequences.class_incremental import Protocol, build, class_incremental
from everclip.data.sequences.shots import choose_shots, choose_test, require_shots
from everclip.errors import ConfigError, DataError
from everclip.evaluation.classification import Classification
from everclip.types import TaskSequence
from tests.data.conftest import MakeDataset

NAMES = tuple("abcdefghij")
AS_IT_IS = PILToTensor()
GOLDEN = Path(__file__).parents[1] / "golden"


def test_seeded_orders_are_numpys_and_pythons() -> None:
    assert orders.resolve("identity", NAMES) == list(range(10))
    assert orders.resolve("seed1993", NAMES) == np.random.RandomState(1993).permutation(10).tolist()
    random.seed(3)
    shuffled = list(range(10))
    random.shuffle(shuffled)
    assert orders.resolve("shuffle3", NAMES) == shuffled


@pytest.mark.parametrize(
    ("name", "classes", "first"),
    [("icarl_cifar100", 100, [87, 0, 52, 58, 44, 91]), ("zscl_tinyimagenet", 200, [131, 181, 22, 172, 144, 92])],
)
def test_published_orders_are_permutations(name: str, classes: int, first: list[int]) -> None:
    order = orders.resolve(name, [str(i) for i in range(classes)])
    assert sorted(order) == list(range(classes))
    assert order[:6] == first
    with pytest.raises(ConfigError, match=f"class_order={name} is for {classes} classes, but there are 10"):
        orders.resolve(name, NAMES)


def test_a_listed_order_may_leave_classes_out() -> None:
    assert orders.resolve([3, 1], NAMES) == orders.resolve(["d", "b"], NAMES) == [3, 1]
    assert Protocol(1, 1, class_order=[3, 1, 2]).sessions_of(NAMES) == [[3], [1], [2]]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([1, 1], "class 1 occurs twice"),
        (["a", "b", "a"], "class 'a' occurs twice"),
        ([10], "there is no class 10 among the 10"),
        ([-1], "there is no class -1 among the 10"),
        (["z"], "there is no class 'z' among the 10"),
        ("icarl", "class_order=icarl: must be identity or seed<number>, .*icarl_cifar100, zscl_tinyimagenet"),
    ],
)
def test_impossible_orders(order: orders.ClassOrder, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        orders.resolve(order, NAMES)


def test_sessions_take_their_classes_in_order() -> None:
    groups = Protocol(base_classes=4, way=3, class_order="seed1993").sessions_of(NAMES)
    assert [number for group in groups for number in group] == np.random.RandomState(1993).permutation(10).tolist()
    assert [len(group) for group in groups] == [4, 3, 3]


def test_the_last_session_takes_what_is_left() -> None:
    assert Protocol(base_classes=3, way=4).sessions_of(NAMES[:9]) == [[0, 1, 2], [3, 4, 5, 6], [7, 8]]
    assert Protocol(base_classes=3, way=None).sessions_of(NAMES[:6]) == [[0, 1, 2], [3, 4, 5]]
    assert Protocol(base_classes=None, way=5).sessions_of(NAMES[:6]) == [[0, 1, 2, 3, 4, 5]]
    assert Protocol(base_classes=2, way=2, max_classes=4).sessions_of(NAMES) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"base_classes": 0, "steps": 5}, [2] * 5),
        ({"base_classes": 0, "way": 2}, [2] * 5),
        ({"base_classes": 5, "steps": 5}, [5, *[1] * 5]),
        ({"base_classes": 4, "way": 4}, [4, 4, 2]),
        ({"base_classes": 2, "steps": 2, "class_order": [5, 4, 3, 2, 1, 0]}, [2, 2, 2]),
    ],
)
def test_base_classes_and_steps(options: dict[str, object], sizes: list[int], make_dataset: MakeDataset) -> None:
    sequence = class_incremental(dataset=make_dataset(10), **options)  # type: ignore[arg-type]  # keywords of one test
    assert [len(session.new) for session in sequence.sessions] == sizes
    assert [len(session.train) for session in sequence.sessions] == [3 * size for size in sizes]
    assert [len(task.samples) for task in sequence.tasks] == [2 * size for size in sizes]
    seen = [class_id for session in sequence.sessions for class_id in session.new.ids]
    assert len(set(seen)) == len(seen) == sum(sizes)
    assert sequence.sessions[-1].seen.ids == tuple(seen)
    assert ({task.evaluator for task in sequence.tasks}, sequence.evaluate) == ({Classification("seen")}, "seen")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": 2, "steps": 5}, r"sequence\.way=2 and sequence\.steps=5: give one of them, the other null"),
        ({}, r"sequence\.way=None and sequence\.steps=None: give one"),
        ({"steps": 3}, r"sequence\.steps=3: 10 classes do not divide"),
        ({"steps": 2, "base_classes": 10}, r"sequence\.steps=2: 0 classes do not divide"),
        ({"way": 2, "base_classes": 11}, r"sequence\.base_classes=11, but there are 10 classes"),
    ],
)
def test_impossible_steps(options: dict[str, object], message: str, make_dataset: MakeDataset) -> None:
    with pytest.raises(ConfigError, match=message):
        class_incremental(dataset=make_dataset(10), **{"base_classes": 0, **options})  # type: ignore[arg-type]  # keywords


def test_templates_and_shots_of_a_class_incremental_sequence(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(4, train=5)
    own = class_incremental(dataset=dataset, base_classes=2, way=2, shots=2, base_shots=3)
    assert [len(session.train) for session in own.sessions] == [6, 4]
    assert own.sessions[1].new.templates == dataset.templates
    other = class_incremental(dataset=dataset, base_classes=2, way=2, shots=2, base_shots=3, templates=["a {}."])
    assert other.sessions[1].new.templates == ("a {}.",)
    assert len({s.fingerprint() for s in (own, other, class_incremental(dataset=dataset, base_classes=2, way=2))}) == 3


def test_pictures_beside_the_shots_are_validation_and_unlabelled(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(4, train=6)

    def made(**beside: int | str) -> TaskSequence:
        protocol = Protocol(2, 2, shots=2, base_shots=2, **beside)  # type: ignore[arg-type]  # keywords of one test
        return build("made", protocol, dataset.train, dataset.test, dataset.names, dataset.templates)

    plain, rich = made(), made(validation=1, unlabelled=3)
    for session, other in zip(rich.sessions, plain.sessions, strict=True):
        assert session.train.fingerprint() == other.train.fingerprint()
        read = (samples.read(range(len(samples)), AS_IT_IS) for samples in session.samples().values())
        sets = [batch.images.flatten(1)[:, 0] for batch in read]
        assert [len(found) for found in sets] == [2 * count for count in (2, 3, 1)]
        pixels = [pixel for found in sets for pixel in found.tolist()]
        assert sorted(pixels) == np.flatnonzero(np.isin(dataset.train.labels, session.new.ids)).tolist()
    assert plain.sessions[0].samples().keys() == {"train"}
    assert len({made(**beside).fingerprint() for beside in ({}, {"validation": 1}, {"unlabelled": 1})}) == 3
    rest = made(validation=1, unlabelled="rest").sessions[1]
    assert rest.unlabelled is not None
    assert np.bincount(rest.unlabelled.labels).tolist() == [0, 0, 3, 3]
    with pytest.raises(DataError, match=r"made: sequence.unlabelled=rest, but no pictures are left"):
        made(validation=4, unlabelled="rest")
    with pytest.raises(DataError, match="'made 0' has 3 pictures beside those it is trained on, unlabelled=4"):
        made(validation=1, unlabelled=4)


def test_shots_are_drawn_per_class_and_reproducibly() -> None:
    labels = np.repeat([4, 2], 10)
    chosen = choose_shots(labels, 3, seed=0)
    assert sorted(labels[chosen].tolist()) == [2, 2, 2, 4, 4, 4]
    assert len(set(chosen)) == 6
    assert np.array_equal(chosen, choose_shots(labels, 3, seed=0))
    assert not np.array_equal(chosen, choose_shots(labels, 3, seed=1))
    assert choose_shots(labels, 11, seed=0).tolist() == [*range(10, 20), *range(10)]
    assert choose_shots(labels, None, seed=0).tolist() == list(range(20))


def test_too_few_pictures_for_the_shots_are_an_error(make_dataset: MakeDataset) -> None:
    require_shots(np.array([0, 0, 1, 1]), 2, "ab")
    with pytest.raises(DataError, match="class 'b' has 1 training pictures, fewer than 2 shots"):
        require_shots(np.array([0, 1, 0]), 2, "ab")
    with pytest.raises(DataError, match="class 'made 2' has 3 training pictures, fewer than 4 shots"):
        class_incremental(dataset=make_dataset(4), base_classes=2, way=1, shots=4)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 4, 16])
def test_coops_draw_is_the_official_one(seed: int, shots: int) -> None:
    golden = json.loads((GOLDEN / "coop_few_shot.json").read_text())
    chosen = choose_shots(np.array(golden["labels"]), shots, seed, draw="coop")
    assert chosen.tolist() == golden["chosen"][f"seed{seed}_shots{shots}"]


def test_a_share_of_every_class_is_for_testing() -> None:
    labels = np.array([0] * 10 + [1] * 3 + [2] * 2)
    chosen = choose_test(labels, 0.3, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [3, 1, 1]
    assert np.bincount(labels[choose_test(labels, 0.9, seed=0)]).tolist() == [9, 2, 1]
    assert not np.array_equal(chosen, choose_test(labels, 0.3, seed=1))
