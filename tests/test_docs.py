"""What the README and the documentation say works: their options, their commands, their links."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from markdown import markdown
from omegaconf import DictConfig
from pip._internal.models.index import PyPI

from everclip.commands import run as cli
from everclip.commands.arguments import Parser
from everclip.config import build, checks, schema
from everclip.config.catalogue import option_names
from everclip.reporting import results
from tests.conftest import Remembering

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))

import docs  # noqa: E402 (the hook of the site, from scripts/)
import docs_pages  # noqa: E402 (pages of the site that are written from the code)

PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """Page, program and words of each command of ours, in indented lines and in blocks of bash; as users type them."""
    for page in PAGES:
        text = page.read_text()
        blocks = "\n".join(re.findall(r"^ *```bash\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL))
        for line in (*blocks.splitlines(), *re.findall(r"^    (everclip.*)$", text, re.MULTILINE)):
            program, *words = shlex.split(line, comments=True) or [""]
            if program in SCRIPTS and "--config-dir" not in words:  # those are of tests/test_recipes.py
                yield page.name, program, words


def single(override: Override) -> str | None:
    """The first of what a sweep runs; None where only the sweep knows."""
    if not override.is_sweep_override():
        return override.input_line
    if override.value_type not in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP, ValueType.RANGE_SWEEP):
        return None
    first = next(iter(override.sweep_string_iterator()))
    return f"{(override.input_line or '').partition('=')[0]}={first}"


def composed(commands: Iterable[tuple[str, ...]]) -> Iterator[DictConfig]:
    """What commands of `everclip` compose to, each setting compared with what reads it."""
    build.register()
    parser = OverridesParser.create()
    with (
        patch("hydra._internal.config_loader_impl.CachingConfigRepository", Remembering),
        initialize_config_dir(str(schema.conf_dir()), version_base="1.3"),
    ):
        for words in commands:
            overrides = parser.parse_overrides([word for word in words if word != "-m"])
            assert "-m" in words or not any(override.is_sweep_override() for override in overrides), words
            config = hydra_compose("run", [word for override in overrides if (word := single(override)) is not None])
            checks.check_values(config)
            for group in schema.GROUPS:
                checks.check_group(group, config[group])
            yield config


def test_the_longest_command_of_each_page_composes() -> None:
    by_page: dict[str, list[tuple[str, ...]]] = {}
    for page, program, words in commands():
        if program == "everclip":
            by_page.setdefault(page, []).append(tuple(words))
    longest = {max(own, key=len) for own in by_page.values()}
    assert len(longest) > 15
    assert len(list(composed(sorted(longest)))) == len(longest)


@pytest.mark.everything
def test_every_command_composes() -> None:
    every = {tuple(words) for _, program, words in commands() if program == "everclip"}
    assert len(every) > 80
    assert len(list(composed(sorted(every)))) == len(every)


def test_every_choice_of_a_command_exists() -> None:
    groups = (*schema.GROUPS, *schema.INJECTED, "trainer", "logger", "sequence/dataset", "sequence/encoder")
    for page, program, words in commands():
        for word in words if program == "everclip" else ():
            group, _, values = word.partition("=")
            if group in groups:
                assert set(values.split(",")) <= set(option_names(group)), f"{page}: {word}"


def test_every_other_command_is_understood() -> None:
    def then_stop(name: str) -> Any:
        original = getattr(Parser, name)

        def parse(self: Parser, words: list[str]) -> None:
            original(self, words)
            raise StopIteration

        return patch.object(Parser, name, parse)

    with then_stop("parse_args"), then_stop("parse_intermixed_args"):
        for program, words in ((program, words) for _, program, words in commands() if program != "everclip"):
            module, _, main = SCRIPTS[program].partition(":")
            with pytest.raises(StopIteration):
                getattr(import_module(module), main)(words)


def test_every_option_exists() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "choosing.md"):
        rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page.read_text(), re.MULTILINE)
        assert rows
        for group, options in rows:
            named = re.findall(r"`([a-z0-9_]+)`", options)
            unknown = set(named) - set(option_names(group)) - {"random"}
            assert named, group
            assert not unknown, (page.name, group, unknown)


def anchors(text: str) -> set[str]:
    """What can be linked to on a page, as MkDocs names it."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    given = {match[1] for heading in headings if (match := re.search(r"\{ #([\w-]+) \}", heading))}
    return given | {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_every_link_leads_somewhere() -> None:
    written = {ROOT / "docs" / place for place in docs_pages.makers()}
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            place, _, anchor = link.partition("#")
            if re.match(r"https?:", place):
                continue
            target = (page.parent / place).resolve() if place else page
            assert target.is_file() or target in written, f"{page}: {link}"
            if anchor and target.is_file():
                assert anchor in anchors(target.read_text()), f"{page}: {link}"


def test_a_methods_page_says_what_its_code_says() -> None:
    page = docs_pages.method_page("gda")
    assert "# gda\n\n**GDA: Gaussian discriminant analysis" in page
    assert "| `views` | whole number at least 1 | `1` | passes over a session's pictures, each as `train" in page
    assert "`pooled`, `mean`" in page
    assert "mrflogs/ICLR24 @ 560fe21, CPU, float64" in page


def test_equations_are_of_methods() -> None:
    stems = {path.stem for path in (ROOT / "docs" / "equations").glob("*")}
    assert stems <= set(option_names("method"))


def test_every_formula_is_shown_without_leftovers() -> None:
    extensions = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["markdown_extensions"]
    settings = {name: own for entry in extensions if isinstance(entry, dict) for name, own in entry.items()}
    names = [entry for entry in extensions if isinstance(entry, str)] + [*settings]
    for page in [*PAGES, *map(ROOT.joinpath, ("CHANGELOG.md", "SECURITY.md"))]:
        given = markdown(page.read_text(), extensions=names, extension_configs=settings)
        count = given.count('class="arithmatex"')
        shown = docs.on_page_content(given)
        formulas = re.findall(r"<math.*?</math>", shown, re.DOTALL)
        assert (shown.count("arithmatex"), len(formulas)) == (0, count), page
        for formula in formulas:
            said = re.sub(r"<[^>]*>", "", formula)
            assert not re.search(r"\\|\$|&amp;|#x0005C", said), f"{page}: {said}"
        if page.parent.name == "equations":
            rest = re.sub(r"<(code|math)\b.*?</\1>", "", shown, flags=re.DOTALL)
            assert count, page
            assert not re.search(r"[\\$]", rest), f"{page}: {rest}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_lock_file_has_the_versions_of_the_constraints() -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    lock = (ROOT / "uv.lock").read_text()
    locked = {plain(package["name"]): package["version"] for package in tomllib.loads(lock)["package"]}
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    differ = {name: version for name, version in pinned.items() if locked.get(plain(name)) != version}
    assert not differ, f"make lock: {differ}"
    public = {
        PyPI.url.rstrip("/"),
        f"https://{PyPI.file_storage_domain}",
    }  # the index that pip asks unless told otherwise
    assert set(re.findall(r"https?://[^/\"]+", lock)) == public


@pytest.mark.everything
def test_the_site_builds_and_asks_the_net_for_nothing(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 100
    for page in pages:
        text = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//", text), page
        assert not re.findall(r"<link[^>]* rel=\"?(?:stylesheet|preconnect)[^>]*//", text), page
        assert "arithmatex" not in text, page


def test_the_notebook_runs(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = subprocess.run

    def command(words: list[str], **given: Any) -> subprocess.CompletedProcess[str]:
        """What the notebook starts, in this process: to import everything once more takes longer than all the rest."""
        if words[:3] != [sys.executable, "-m", "everclip.commands.run"]:
            return start(words, **given)
        monkeypatch.setattr(sys, "argv", ["everclip", *words[3:], f"paths.cache={cache_dir}"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        assert not stop.value.code, printed.err
        return subprocess.CompletedProcess(words, 0, printed.out)

    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    program = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(subprocess, "run", command)
    monkeypatch.setattr(results, "write_plots", lambda *_: [])
    found: dict[str, Any] = {}
    exec(program, found)
    assert found["model"].classes.names == ("blue square", "green square", "red square", "yellow square")
    assert found["probabilities"].argmax(dim=1).tolist() == [0, 1, 2, 3]
    assert "| ncm    |" in capsys.readouterr().out
