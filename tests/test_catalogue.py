from __future__ import annotations

import json

import pytest

from everclip.commands.list import main
from everclip.config import catalogue


def test_the_catalogue_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"methods", "backbones", "sequences", "tables"}
    methods = {entry["name"]: entry for entry in found["methods"]}
    assert methods["cpe_clip"]["source"].startswith("arXiv 2303.04751, official code neuraptic/cpe-clip @ 9309631")
    assert methods["cpe_clip"]["options"]["prompt_length"] == 2
    assert methods["joint"]["needs"] == "class labels, all data seen so far"
    backbones = {entry["name"]: entry for entry in found["backbones"]}
    assert backbones["vit_b16_openai"]["needs"] == "weights openai of ViT-B-16-quickgelu"
    sequences = {entry["name"]: entry for entry in found["sequences"]}
    assert sequences["folder"]["options"]["root"] == "???"
    assert sequences["folder"]["needs"] == sequences["manifest"]["needs"] == "pictures of your own"
    assert sequences["cil_cifar100"]["options"]["dataset"] == "cifar100"
    assert sequences["mtil_order2"]["options"]["domains"][:2] == ["stanford_cars", "food101"]
    assert sequences["mtil_order2"]["needs"].startswith("data sets stanford_cars, food101, ")
    assert sequences["few_shot"]["options"]["dataset"] == "shapes"
    assert "sequence/dataset=caltech101|cifar10|" in sequences["few_shot"]["needs"]
    assert sequences["dil_domainnet"]["options"]["candidates"] == "union"  # of the option it is built on
    assert sequences["shapes_mtil"]["needs"] == ""


def test_every_method_names_its_source() -> None:
    for name in catalogue.option_names("method"):
        entry = catalogue.describe("method", name)
        assert entry["source"], name
        assert entry["summary"].endswith("."), name


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
    needs = {name: catalogue.describe("method", name)["needs"] for name in ("lora", "ewc", "er", "joint")}
    assert needs == {
        "lora": "",
        "ewc": "class labels",
        "er": "class labels, exemplars of earlier sessions",
        "joint": "class labels, all data seen so far",
    }
