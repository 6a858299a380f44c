from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from everclip.commands.list import main
from everclip.config import catalogue, sources
from everclip.config.files import read_file
from everclip.config.schema import conf_dir
from everclip.errors import ConfigError


def test_the_catalogue_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"methods", "backbones", "sequences", "tables"}
    methods = {entry["name"]: entry for entry in found["methods"]}
    assert methods["cpe_clip"]["source"].startswith("arXiv 2303.04751, official code neuraptic/cpe-clip @ 9309631")
    assert methods["cpe_clip"]["options"]["prompt_length"] == 2
    assert methods["joint"]["needs"] == "all data seen so far"
    backbones = {entry["name"]: entry for entry in found["backbones"]}
    assert backbones["vit_b16_openai"]["needs"] == "weights openai of ViT-B-16-quickgelu"
    sequences = {entry["name"]: entry for entry in found["sequences"]}
    assert sequences["folder"]["options"]["root"] == "???"
    assert sequences["folder"]["needs"] == sequences["manifest"]["needs"] == "pictures of your own"
    assert sequences["cil_cifar100"]["options"]["dataset"] == "cifar100"
    assert sequences["mtil_order2"]["options"]["domains"][:2] == ["stanford_cars", "food101"]
    assert sequences["mtil_order2"]["needs"].startswith("data sets stanford_cars, food101, ")
    assert sequences["few_shot"]["options"]["dataset"] == "shapes"
    assert "sequence/dataset=activitynet|caltech101|cifar10|" in sequences["few_shot"]["needs"]
    assert sequences["dil_domainnet"]["options"]["candidates"] == "union"  # of the option it is built on
    assert sequences["shapes_mtil"]["needs"] == ""
    assert sequences["retrieval_flickr_5phase"]["needs"] == "data sets coco_captions, flickr30k"
    assert sequences["retrieval_dar"]["needs"].startswith("data sets flickr30k, lexica, wikiart, kream, ")


@pytest.mark.parametrize("group", ["method", "backbone", "sequence"])
def test_what_is_read_from_sources_is_what_python_has(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = catalogue.option_names(group)
    with monkeypatch.context() as patched:
        patched.delattr(catalogue, "Imported")  # nothing has to be imported
        read = [catalogue.describe(group, name) for name in names]
    monkeypatch.setattr(catalogue, "Written", catalogue.Imported)
    assert read == [catalogue.describe(group, name) for name in names]


def test_every_method_names_its_source() -> None:
    for name in catalogue.option_names("method"):
        entry = catalogue.describe("method", name)
        assert entry["source"], name
        assert entry["summary"].endswith("."), name


def test_methods_stand_in_families(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [catalogue.describe("method", name) for name in catalogue.option_names("method")]
    assert [entry["name"] for entry in entries if not entry["family"]] == []
    main(["methods"])
    lines = capsys.readouterr().out.splitlines()
    names = ("  baselines", "  joint ", "  closed form", "  rail ", "  low-rank updates", "  conpet ", "  prompts")
    places = [next(number for number, line in enumerate(lines) if line.startswith(name)) for name in names]
    assert places == sorted(places)


INHERITED = """
from everclip.methods.base import Method

from .parts import LEARNER, Mixed


class Mine(Mixed, Method):
    any_objective = False
"""
PARTS = """
import torch
from everclip.methods.er import Er

LEARNER = "all"


class Pairs:
    learns_pairs = True
    sees = "exemplars"


class Mixed(Pairs, torch.nn.Module):
    sees = LEARNER

    def __init__(self, backbone, *, strength=0.5, **others):
        pass
"""


def test_traits_follow_pythons_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "traits_apart").mkdir()
    (tmp_path / "traits_apart/mine.py").write_text(INHERITED)
    (tmp_path / "traits_apart/parts.py").write_text(PARTS.replace(", **others", ""))
    monkeypatch.syspath_prepend(tmp_path)
    read, had = (kind("traits_apart.mine.Mine") for kind in (sources.Written, sources.Imported))
    names = ("any_objective", "learns_pairs", "learns_order", "learns_moments", "sees")
    assert (
        [read.trait(name) for name in names]
        == [had.trait(name) for name in names]
        == [False, True, False, False, "all"]
    )
    assert [(option, read.default(option)) for option in read.options()] == [("strength", 0.5)]
    (tmp_path / "traits_apart/others.py").write_text(PARTS)
    with pytest.raises(sources.UnreadableError):
        sources.Written("traits_apart.others.Mixed")


OWN = '''"""Nothing: zero-shot CLIP under a name of its own.

Source: nobody.
"""
from everclip.methods.zero_shot import ZeroShot


class Mine(ZeroShot):
    def __init__(self, backbone, *, strength: float = 0.5) -> None:
        super().__init__(backbone)
'''


def test_methods_of_ones_own_are_listed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/mine.yaml").write_text(
        "# @package _global_\nmethod:\n  _target_: own_listed.Mine\n  strength: 0.5\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    with pytest.raises(SystemExit) as stop:
        main(["methods", "--config-dir", "conf"])
    assert stop.value.code == 2
    assert "conf/method/mine.yaml names own_listed.Mine, which cannot be imported" in capsys.readouterr().err
    (tmp_path / "own_listed.py").write_text(OWN)
    main(["methods", "--json", "--config-dir", "conf"])
    methods = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["methods"]}
    assert "lora" in methods
    assert methods["mine"] == {
        "name": "mine",
        "summary": "Nothing: zero-shot CLIP under a name of its own.",
        "family": "",
        "options": {"strength": 0.5},
        "source": "nobody.",
        "needs": methods["zero_shot"]["needs"],
    }


@pytest.mark.parametrize(
    ("place", "text", "reason"),
    [
        ("method", "method: {lr: [1}", "is no YAML: "),
        ("method", "", "holds no settings under `method:`"),
        ("method", "method: 3", "holds no settings under `method:`"),
        ("sequence", "- 1", "holds no settings"),
        ("method", "method: {rank: 4}", "does not say what it is: _target_"),
        ("sequence", "shots: 4", "does not say what it is: _target_"),
    ],
)
def test_a_file_of_ones_own_that_says_nothing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, text: str, reason: str
) -> None:
    file = tmp_path / place / "mine.yaml"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(SystemExit) as stop:
        main([f"{place}s", "--config-dir", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"everclip-list: {file} {reason}")


def test_a_folder_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--config-dir", "nowhere"])
    assert (stop.value.code, capsys.readouterr().err) == (2, "everclip-list: --config-dir nowhere: no such folder\n")


def test_every_sequence_says_what_it_is() -> None:
    for name in catalogue.option_names("sequence"):
        entry = catalogue.describe("sequence", name)
        assert entry["summary"], name
        assert "_target_" not in str(entry), name


@pytest.mark.parametrize("group", ["method", "backbone", "table"])
def test_no_two_options_have_the_same_summary(group: str) -> None:
    summaries = [catalogue.describe(group, name)["summary"] for name in catalogue.option_names(group)]
    assert sorted(set(summaries)) == sorted(summaries)


def test_one_kind_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    main(["methods"])
    out = capsys.readouterr().out
    assert "cpe_clip" in out
    assert "vit_b16_openai" not in out


def test_it_says_which_methods_need_class_labels() -> None:
    needs = {name: catalogue.describe("method", name)["needs"] for name in ("codyra", "icarl", "er", "joint")}
    assert needs == {
        "codyra": "class labels",
        "icarl": "class labels, exemplars of earlier sessions",
        "er": "exemplars of earlier sessions",
        "joint": "all data seen so far",
    }


def test_files_are_read_as_omegaconf_reads_them(tmp_path: Path) -> None:
    words = "[1, 0x1f, 1_000, -2.5, 1., .5, 1e-3, 1E5, +1.5e+2, .5e3, .5e-3, 1_0e2, .inf, 1e, e5, -e5, 1-2, 1.2.3]"
    others = "{on: yes, none: null, day: 2024-05-01, time: 2024-05-01 10:00:00, at: '${seed}'}"
    (tmp_path / "odd.yaml").write_text(f"words: {words}\nothers: {others}\nopen: ???\n")
    (tmp_path / "empty.yaml").touch()
    files = [*tmp_path.iterdir(), *conf_dir().rglob("*.yaml")]
    assert len(files) > 300
    for path in files:
        assert repr(read_file(path)) == repr(OmegaConf.to_container(OmegaConf.load(path))), path


def test_a_key_is_not_given_twice(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("a:\n  b: 1\n  c: 2\n  b: 3\n")
    with pytest.raises(ConfigError, match=r"twice.yaml is no YAML: duplicate key b .*line 2"):
        read_file(tmp_path / "twice.yaml")


def test_an_option_over_another_says_only_what_differs(tmp_path: Path) -> None:
    (tmp_path / "sequence").mkdir()
    (tmp_path / "sequence" / "mine.yaml").write_text(
        "defaults:\n  - few_shot\n  - override dataset: dtd\n  - _self_\nshots: 2\ndataset: {root: here}\n"
    )
    mine = catalogue.read_option("sequence", "mine", own=tmp_path)
    dataset = catalogue.read_option("sequence/dataset", "dtd") | {"root": "here"}
    assert mine == catalogue.read_option("sequence", "few_shot") | {"shots": 2, "dataset": dataset}
