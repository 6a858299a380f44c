"""Sequences of the same classes in one domain after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from everclip.config.build import build
from everclip.config.catalogue import option_names
from everclip.data.datasets.base import LabelledImages
from everclip.data.images import ArrayImages
from everclip.data.sequences.domain_incremental import domain_incremental
from everclip.data.validation import hold_out
from everclip.errors import ConfigError, DataError
from everclip.metrics.domain_incremental import PROTOCOL
from everclip.runs.scores import table_of
from everclip.types import TaskSequence
from tests.metrics.tables import table_of as scores
from tests.test_kinds import SHORT, run_composed

SMALL = (
    "sequence=shapes_dil", "sequence.styles=[scenes,night_sky]", "sequence.num_classes=4",
    "sequence.train_per_class=3", "sequence.test_per_class=3",
)  # fmt: skip


def domain(name: str, train: list[int], test: list[int], names: tuple[str, ...] = ("a", "b", "c")) -> LabelledImages:
    parts = [
        ArrayImages(np.zeros((len(labels), 4, 4, 3), np.uint8), np.array(labels), f"{name}{split}")
        for split, labels in enumerate((train, test))
    ]
    return LabelledImages(name, names, ("a {}.",), *parts)


def test_a_class_is_new_once_and_then_returns() -> None:
    drawn = [domain("x", [0, 0, 2], [0, 2]), domain("y", [0, 1, 2], [1, 2]), domain("z", [1], [0])]
    sequence = domain_incremental(name="d", domains=drawn)
    assert [(s.new.ids, s.returning.ids, s.seen.ids) for s in sequence.sessions] == [
        ((0, 2), (), (0, 2)), ((1,), (0, 2), (0, 2, 1)), ((), (1,), (0, 2, 1)),
    ]  # fmt: skip
    assert sequence.sessions[1].classes.names == ("a", "c", "b")
    assert [task.classes.ids for task in sequence.tasks] == [(0, 1, 2)] * 3
    known = domain_incremental(name="d", domains=drawn, candidates="domain")
    assert [task.classes.ids for task in known.tasks] == [(0, 2), (1, 2), (0,)]
    assert sequence.evaluated(0) == [0, 1, 2]


def test_which_classes_return_is_part_of_the_fingerprint() -> None:
    one, other = (
        domain_incremental(name="d", domains=[domain("x", first, [0]), domain("y", [0, 1], [0])]).fingerprint()
        for first in ([0, 1], [0, 0])
    )
    assert one != other


@pytest.mark.parametrize(
    ("drawn", "error", "text"),
    [
        ([], ConfigError, "must be one or more"),
        ([domain("x", [0], [0])] * 2, ConfigError, "each once"),
        (
            [domain("x", [0], [0]), domain("y", [0], [0], ("a", "c", "b"))],
            ConfigError,
            "does not name the classes as x",
        ),
        ([domain("x", [0], [1])], DataError, "domain x is tested on 'b', which none trains"),
    ],
)
def test_domains_that_do_not_fit_are_refused(drawn: list[LabelledImages], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        domain_incremental(name="d", domains=drawn)


def test_a_search_holds_out_pictures_of_returning_classes() -> None:
    drawn = [domain("x", [0, 0, 1, 1], [0]), domain("y", [0, 0, 1, 1], [0])]
    searched = hold_out(domain_incremental(name="d", domains=drawn), 0.5)
    assert [(task.samples.labels.tolist(), task.classes.ids) for task in searched.tasks] == [([0, 1], (0, 1))] * 2


def test_the_styles_of_shapes_dil_share_their_classes(compose: Callable[..., DictConfig]) -> None:
    sequence: TaskSequence = build("sequence", compose("sequence=shapes_dil").sequence)
    assert [len(session.new) for session in sequence.sessions] == [20, 0, 0, 0]
    assert len({name.split()[-1] for name in sequence.sessions[0].new.names}) == 9  # of ten shapes
    assert sequence.held_out is not None


def test_numbers_of_an_example() -> None:
    table = scores("accuracy", [[80, 40, 20], [60, 90, 30], [50, 70, 90]], [10, 30, 20])
    assert PROTOCOL.session(table) == {
        "accuracy": 70, "earlier_accuracy": 60, "unseen_accuracy": None,
    }  # fmt: skip
    summary = PROTOCOL.summary(table)
    assert summary["average_accuracy"] == pytest.approx((80 + 75 + 70) / 3)
    assert summary["last_accuracy"] == 70
    assert summary["forgetting"] == (30 + 20) / 2
    assert summary["forward_transfer"] == (40 + 25) / 2
    early = scores("accuracy", [[80, 40, 20]], [10, 30, 20])
    assert PROTOCOL.session(early)["unseen_accuracy"] == 30
    assert "forward_transfer" not in PROTOCOL.summary(early)


OTHERS = [name for name in option_names("method") if name not in ("ncm", "icarl", "conpet")]


@pytest.mark.parametrize(
    "method", ["ncm", "icarl", *(pytest.param(name, marks=pytest.mark.everything) for name in OTHERS)]
)
def test_a_method_learns_classes_that_return(method: str, tmp_path: Path, cache_dir: Path) -> None:
    records = run_composed(tmp_path, cache_dir, *SMALL, *SHORT, f"method={method}").read_sessions()
    assert not np.isnan(table_of(records).matrix("accuracy")).any()  # styles to come have the same classes


def test_a_method_with_an_owner_for_each_class_is_refused(tmp_path: Path, cache_dir: Path) -> None:
    with pytest.raises(ConfigError, match="Conpet learns a class in one session, but shapes_dil has the same again"):
        run_composed(tmp_path, cache_dir, *SMALL, *SHORT, "method=conpet")
