"""What a stored configuration may build."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from everclip.config.trust import trusted
from everclip.errors import ConfigError

TINY = {"_target_": "everclip.backbones.open_clip.OpenClip", "model": "everclip-tiny", "weights": "embedded"}
NCM = {"_target_": "everclip.methods.ncm.Ncm"}
TEXTS = {"_target_": "everclip.data.class_texts.none"}


def read(folder: Path, *packages: str, **settings: Any) -> Any:
    (folder / "config.yaml").write_text(yaml.safe_dump({"backbone": TINY, "method": NCM} | settings))
    return trusted(folder / "config.yaml", ("backbone", "method"), packages)


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `theirs`; the file it gives appears when it is imported."""
    (tmp_path / "theirs.py").write_text(
        f"import os, pathlib\npathlib.Path({str(tmp_path / 'imported')!r}).touch()\nclass Method: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    return tmp_path / "imported"


def test_what_a_run_stores_is_read_and_nothing_else_of_the_file(tmp_path: Path) -> None:
    read_back = read(tmp_path, method=NCM | {"class_texts": TEXTS}, evil={"_target_": "os.system"}, name="${evil}")
    assert read_back == {"backbone": TINY, "method": NCM | {"class_texts": TEXTS}}


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.load",
        "everclip.runs.provenance.subprocess.run",
        "everclip.storage.write_text",
        "everclip.commands.run.main",
        "everclip.commands.from_run.folded",
        "everclip.data.downloads.fetch",
        "theirs.Method",
        None,
        {"a": "b"},
    ],
)
def test_other_things_are_named_and_not_imported(target: Any, tmp_path: Path, other_package: Path) -> None:
    node = {"_target_": target}
    for group, value in (("method", node), ("backbone", node), ("method", NCM | {"a": [{"b": node}]})):
        with pytest.raises(ConfigError, match="which is neither a backbone nor a method of everclip"):
            read(tmp_path, **{group: value})
    assert not other_package.exists()


@pytest.mark.parametrize("text", ["${evil}", "${evil.a}", "${oc.env:HOME}", "a ${.b} c", "${"])
def test_interpolations_are_refused_wherever_they_stand(text: str, tmp_path: Path) -> None:
    for node in (NCM | {"session_lr": text}, {"_target_": text}, NCM | {"a": [{"b": text}]}):
        with pytest.raises(ConfigError, match=r"interpolation|cannot be read"):
            read(tmp_path, method=node, evil={"_target_": "os.system", "a": 1})


def test_packages_that_are_named_may_be_built(tmp_path: Path, other_package: Path) -> None:
    node = {"_target_": "theirs.Method"}
    assert read(tmp_path, "theirs", method=node).method == node
    assert other_package.exists()
    with pytest.raises(ConfigError, match=r"names theirs\.os\.system"):  # written elsewhere
        read(tmp_path, "theirs", method={"_target_": "theirs.os.system"})


@pytest.mark.parametrize("content", ["", "a: 1", "backbone: tiny", "- 1", "method: {"])
def test_what_is_no_configuration_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.yaml (holds no settings of backbone|cannot be read|is no YAML)"):
        trusted(tmp_path / "config.yaml", ("backbone", "method"))
