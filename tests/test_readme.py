"""The README's example of a method of one's own works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"^   ```{language}\n(.*?)^   ```", README, re.MULTILINE | re.DOTALL)
    return re.sub(r"^   ", "", found, flags=re.MULTILINE)


def write_method(place: Path) -> None:
    (place / "my_package.py").write_text(block("python"))
    (place / "my_conf" / "method").mkdir(parents=True)
    (place / "my_conf" / "method" / "text_bias.yaml").write_text(block("yaml"))


@pytest.mark.everything
def test_the_method_of_the_readme_keeps_the_contract(tmp_path: Path) -> None:
    write_method(tmp_path)
    root = Path(__file__).parents[1]
    (line,) = re.findall(r"^contract:.*\n\t(.*)\n", (root / "Makefile").read_text(), re.MULTILINE)
    command = line.replace("$(BIN)/python", sys.executable).replace(
        "$(abspath $(CONFIG_DIR))", str(tmp_path / "my_conf")
    )
    command = command.replace("$(abspath $(CONFIG_DIR)/..)", str(tmp_path))
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^1\d passed", done.stdout.splitlines()[-1]), done.stdout[-3000:]


def test_the_method_of_the_readme_runs_without_a_fork(tmp_path: Path, cache_dir: Path) -> None:
    write_method(tmp_path)
    places = [f"paths.outputs={tmp_path}/outputs", f"paths.cache={cache_dir}", f"--config-dir={tmp_path}/my_conf"]
    done = subprocess.run(
        [Path(sys.executable).with_name("everclip"), *places, *SMALL, "method=text_bias"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "| text_bias |" in done.stdout
    # 10 classes with one bias each are what is trained at the end.
    assert done.stdout.splitlines()[-2].endswith("|      10 |")


def test_every_option_of_the_readme_exists() -> None:
    from everclip.config.catalogue import option_names

    for group, options in re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE):
        named = re.findall(r"`([a-z0-9_]+)`", options)
        unknown = set(named) - set(option_names(group)) - {"random"}
        assert named, group
        assert not unknown, (group, unknown)
