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
from everclip.data.images import ArrayImages, FileImages
from everclip.data.sequences import domain_incremental
from everclip.data.sequences.domain_folders import domain_folders
from everclip.data.sequences.manifest import manifest
from everclip.data.validation import hold_out
from everclip.errors import ConfigError, DataError, MissingError
from everclip.metrics.domain_incremental import PROTOCOL
from everclip.runs.scores import table_of
from everclip.types import TaskSequence
from tests.conftest import run_words
from tests.data.conftest import picture
from tests.metrics.tables import table_of as scores
from tests.test_kinds import SHORT

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
    sequence = domain_incremental.build("d", drawn)
    assert [(s.new.ids, s.returning.ids, s.seen.ids) for s in sequence.sessions] == [
        ((0, 2), (), (0, 2)), ((1,), (0, 2), (0, 2, 1)), ((), (1,), (0, 2, 1)),
    ]  # fmt: skip
    assert sequence.sessions[1].classes.names == ("a", "c", "b")
    assert [task.classes.ids for task in sequence.tasks] == [(0, 1, 2)] * 3
    known = domain_incremental.build("d", drawn, candidates="domain")
    assert [task.classes.ids for task in known.tasks] == [(0, 2), (1, 2), (0,)]
    assert sequence.evaluated(0) == [0, 1, 2]


def test_which_classes_return_is_part_of_the_fingerprint() -> None:
    one, other = (
        domain_incremental.build("d", [domain("x", first, [0]), domain("y", [0, 1], [0])]).fingerprint()
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
        domain_incremental.build("d", drawn)


def test_a_search_holds_out_pictures_of_returning_classes() -> None:
    drawn = [domain("x", [0, 0, 1, 1], [0]), domain("y", [0, 0, 1, 1], [0])]
    searched = hold_out(domain_incremental.build("d", drawn), 0.5)
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
    records = run_words(tmp_path / "run", cache_dir, *SMALL, *SHORT, f"method={method}").read_sessions()
    assert not np.isnan(table_of(records).matrix("accuracy")).any()  # styles to come have the same classes


def test_a_method_with_an_owner_for_each_class_is_refused(tmp_path: Path, cache_dir: Path) -> None:
    with pytest.raises(ConfigError, match="Conpet learns a class in one session, but shapes_dil has the same again"):
        run_words(tmp_path / "run", cache_dir, *SMALL, *SHORT, "method=conpet")


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    """Three domains; the second is divided by folders and lacks a class."""
    for place in ("art/cat", "art/dog", "photo/train/cat", "photo/test/cat", "sketch/cat", "sketch/dog"):
        for i in range(4):
            picture(tmp_path / "pets" / place / f"{i}.png")
    return tmp_path / "pets"


def test_folders_of_domains_become_a_sequence(domains: Path) -> None:
    sequence = domain_folders(root=str(domains), shots=2, test_share=0.25)
    assert sequence.name == "dil_pets"
    assert [session.name for session in sequence.sessions] == ["art", "photo", "sketch"]
    assert [session.classes.names for session in sequence.sessions] == [("cat", "dog"), ("cat",), ("cat", "dog")]
    assert [len(session.train) for session in sequence.sessions] == [4, 2, 4]
    assert [len(task.samples) for task in sequence.tasks] == [2, 4, 2]
    chosen = domain_folders(root=str(domains), domains=["sketch", "art"], exclude=["dog"], candidates="domain")
    assert [session.classes.names for session in chosen.sessions] == [("cat",)] * 2
    without = domain_folders(root=str(domains), exclude=["dog"])  # which one domain does not have anyway
    assert without.sessions[0].seen.names == ("cat",)
    with pytest.raises(ConfigError, match="each once"):
        domain_folders(root=str(domains), domains=["art", "art"])
    with pytest.raises(MissingError, match="has no folder 'clipart'; it has art, photo, sketch"):
        domain_folders(root=str(domains), domains=["clipart"])


def test_published_lists_divide_a_domain(domains: Path) -> None:
    for domain in ("art", "sketch"):
        for split, numbers in (("train", (0, 1, 2)), ("test", (3,))):
            lines = [
                f"{domain}/{name}/{i}.png {7 - label}" for label, name in enumerate(("dog", "cat")) for i in numbers
            ]
            (domains / f"{domain}_{split}.txt").write_text("\n".join(lines) + "\n")
    sequence = domain_folders(root=str(domains), domains=["art", "sketch"], lists="{domain}_{split}.txt")
    assert [len(session.train) for session in sequence.sessions] == [6, 6]
    first = sequence.tasks[0]
    assert isinstance(first.samples, FileImages)
    by_label = dict(zip(first.samples.labels.tolist(), first.samples.paths, strict=True))
    assert {first.classes.names[label]: path.parent.name for label, path in by_label.items()} == {
        "cat": "cat", "dog": "dog",
    }  # fmt: skip
    (domains / "art_test.txt").write_text("art/cat/3.png 7\n")
    with pytest.raises(DataError, match=r"art_test\.txt, line 1"):
        domain_folders(root=str(domains), domains=["art"], lists="{domain}_{split}.txt")
    (domains / "art_test.txt").write_text(f"{domains}/art/cat/3.png 6\n")
    with pytest.raises(DataError, match=r"art_test\.txt, line 1"):
        domain_folders(root=str(domains), domains=["art"], lists="{domain}_{split}.txt")
    with pytest.raises(ConfigError, match=r"must be a name with \{domain\} and \{split\}"):
        domain_folders(root=str(domains), lists="{class}.txt")


def test_a_list_may_name_domains(domains: Path) -> None:
    def written(*lines: str) -> str:
        (domains / "list.csv").write_text("\n".join(["path,label,split,domain", *lines]))
        return str(domains / "list.csv")

    lines = [
        f"{domain}/{label}/{i}.png,{label},{'test' if i else 'train'},{domain}"
        for domain in ("sketch", "art") for label in ("cat", "dog") for i in range(2)
    ]  # fmt: skip
    sequence = manifest(file=written(*lines))
    assert (sequence.name, sequence.protocol) == ("manifest_list", "domain_incremental")
    assert [(s.name, len(s.new), len(s.returning)) for s in sequence.sessions] == [("sketch", 2, 0), ("art", 0, 2)]
    assert [s.name for s in manifest(file=written(*lines), domains=["art"], exclude=["dog"]).sessions] == ["art"]
    few = ["photo/train/cat/0.png,cat,train,photo", "photo/train/cat/1.png,cat,test,photo"]
    alone = manifest(file=written(*lines, *few), domains=["photo"], candidates="union")
    assert [task.classes.names for task in alone.tasks] == [("cat",)]  # no chosen domain has another class
    (domains / "list.csv").write_text("path,label,domain\n" + "\n".join(
        f"{place}/{label}/{i}.png,{label},{domain}"
        for domain, place in (("art", "art"), ("photo", "photo/train"))
        for label in (("cat", "dog") if domain == "art" else ("cat",)) for i in range(4)
    ))  # fmt: skip
    drawn = manifest(file=str(domains / "list.csv"), test_share=0.25)
    assert [task.samples.labels.tolist() for task in drawn.tasks] == [[0, 1], [0]]  # a share of every domain's class
    with pytest.raises(ConfigError, match="leaves no picture"):
        manifest(file=written(*lines), exclude=["cat", "dog"])
    (domains / "plain.csv").write_text("path,label\nart/cat/0.png,cat\nart/cat/1.png,cat\n")
    with pytest.raises(ConfigError, match="has no column domain"):
        manifest(file=str(domains / "plain.csv"), candidates="domain")
    with pytest.raises(ConfigError, match="'oil' is no domain"):
        manifest(file=written(*lines), domains=["oil"])
    with pytest.raises(DataError, match="line 10: a domain for every picture"):
        manifest(file=written(*lines, "photo/test/cat/0.png,cat,test,"))
    with pytest.raises(DataError, match="domain photo has 0 training and 1 test pictures"):
        manifest(file=written(*lines, "photo/test/cat/0.png,cat,test,photo"))
    with pytest.raises(ConfigError, match=r"'dogs' is no class of .*; did you mean 'dog'"):
        manifest(file=written(*lines), exclude=["dogs"])
    (domains / "art" / "cat" / "0.png").write_text("no picture")
    assert len(manifest(file=written(*lines), domains=["sketch"]).sessions) == 1  # others are not looked at
    (domains / "art" / "cat" / "1.png").write_text("no picture")
    for name in "01":
        (domains / "art" / "dog" / f"{name}.png").write_text("no picture")
    with pytest.raises(DataError, match=r"domain 'art' has damaged files alone"):
        manifest(file=written(*lines), broken="leave_out")
