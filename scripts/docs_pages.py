"""Pages of the documentation that are written from the code, see `docs.py`."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import fields, is_dataclass
from functools import cache, partial
from importlib import import_module
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from docs_text import code, fenced, options_table, split_doc, table, type_text
from hydra.utils import get_object

from everclip.config.catalogue import describe, option_names, read_option
from everclip.config.schema import RunConfig, conf_dir
from everclip.data.datasets.spec import keys, spec

ROOT = Path(__file__).parents[1]
CONF = conf_dir()
GOLDEN = ROOT / "tests" / "golden"
LIMITS = {"low": "at least", "high": "at most"}  # of shared keys
COPIES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}


def makers() -> dict[str, Callable[[], str]]:
    """What writes each page that is written here, by its place in the site."""
    methods = {f"reference/methods/{name}.md": partial(method_page, name) for name in option_names("method")}
    return {
        **{place: partial(copied, name) for name, place in COPIES.items()},
        **methods,
        "reference/methods.md": methods_page,
        "reference/sequences.md": sequences_page,
        "reference/backbones.md": backbones_page,
        "reference/settings.md": settings_page,
        "reference/commands.md": commands_page,
        "reproduction.md": reproduction_page,
        "notebook.md": notebook_page,
    }


def copied(name: str) -> str:
    """A page of the repository's root."""
    text = (ROOT / name).read_text()
    for other, place in COPIES.items():
        text = text.replace(f"]({other})", f"]({place})")
    return text


# Methods


def method_page(name: str) -> str:
    """Everything about one method."""
    told = describe("method", name)
    node = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    target = get_object(node["method"]["_target_"])
    module = inspect.getdoc(inspect.getmodule(target)) or ""
    title, idea, said = split_doc(module)
    lines = [f"# {name}", f"**{title}**", idea]
    lines += [f"*Family*: {told['family']}. *Needs*: {told['needs'] or 'whatever a sequence gives'}."]
    equations = ROOT / "docs" / "equations" / f"{name}.md"
    if equations.is_file():
        lines += ["## Equations", equations.read_text().strip()]
    lines += [f"## {heading}\n\n{text}" for heading, text in said.items() if heading != "Family"]
    if made := [text for text, tests in official_files() if f"test_{name}" in tests]:
        lines += ["## Compared with official code", *(f"- {text}" for text in made)]
    if told["options"]:
        lines += ["## Parameters", options_table(target, told["options"])]
    lines += ["## Settings", "The paper's general settings, `conf/method/" + name + ".yaml`:"]
    lines += [fenced((CONF / "method" / f"{name}.yaml").read_text())]
    for path in sorted((CONF / "tuning" / name).glob("*.yaml")):
        lines += [f"With `{path.stem}`:", fenced(path.read_text())]
    return "\n\n".join(filter(None, lines)) + "\n"


def methods_page() -> str:
    """All methods by family."""
    told = sorted((describe("method", name) for name in option_names("method")), key=lambda entry: entry["family"])
    lines = [
        "# Methods",
        f"{len(told)} methods by family; each page has the idea, the equations, the source, what differs from it, and "
        "every parameter with its default. On the command line, `everclip-list methods` tells the same.",
        "In the equations, $z$ are features of pictures and $t_c$ those of a class's texts, of length 1, $s$ is the "
        r"logit scale, $\mathcal C_t$ are the classes of session $t$, $\mathcal L_{\mathrm{CE}}$ is the cross-entropy "
        r"of $\mathrm{softmax}(s\, z^\top t_c)$ over the classes compared, and $\mathcal L_{\mathrm{CLIP}}$ that of "
        "pictures and texts of a batch in both directions.",
    ]
    for family, members in groupby(told, key=lambda entry: entry["family"]):
        rows = [(f"[`{m['name']}`](methods/{m['name']}.md)", m["summary"], m["needs"]) for m in members]
        lines += [f"## {family.capitalize()}", table(("method", "what it is", "needs"), rows)]
    return "\n\n".join(lines) + "\n"


# Sequences, backbones, settings


def sequences_page() -> str:
    """All sequences and data sets."""
    lines = ["# Sequences and data sets", "`everclip-list sequences` tells the same on the command line."]
    for name in option_names("sequence"):
        told = describe("sequence", name)
        lines += [
            f"## {name}",
            told["summary"],
            f"*Needs*: {told['needs'].replace('|', ', ')}." if told["needs"] else "",
        ]
        lines += [options_table(get_object(read_option("sequence", name)["_target_"]), told["options"])]
    known = [spec(key) for key in keys()]
    rows = [(f"`{s.key}`", s.title, s.licence, s.size, ", ".join(s.splits), f"<{s.homepage}>") for s in known]
    lines += ["## Data sets", "Where each belongs and how to get it: `everclip-data status`."]
    lines += [table(("name", "data set", "licence", "size", "splits", "homepage"), rows)]
    return "\n\n".join(filter(None, lines)) + "\n"


def backbones_page() -> str:
    """All backbones."""
    told = [describe("backbone", name) for name in option_names("backbone")]
    rows = [(f"`{t['name']}`", t["summary"], t["needs"]) for t in told]
    target = get_object(yaml.safe_load((CONF / "backbone" / "tiny.yaml").read_text())["_target_"])
    options = describe("backbone", "tiny")["options"]
    how = "How to give weights without network, or a model of your own: [Backbones](../howto/backbones.md)."
    lines = ["# Backbones", how, table(("backbone", "what it is", "needs"), rows)]
    return "\n\n".join([*lines, "## Parameters", "With the defaults of `tiny`:", options_table(target, options)]) + "\n"


def settings_page() -> str:
    """The shared keys, and the files of the groups that are not methods, sequences or backbones."""
    lines = ["# Settings", "`everclip --cfg job` shows all settings of a command, composed."]
    lines += ["## Shared keys", table(("key", "values", "default"), setting_rows(RunConfig(), ""))]
    lines += [inspect.getdoc(part) or "" for part in dataclasses_of(RunConfig())]
    for group in ("optimizer", "scheduler", "trainer", "logger", "reference", "class_texts", "hydra/launcher"):
        lines += [f"## {group} {{ #{group.replace('/', '-')} }}"]
        lines += [f"`{p.stem}`:\n\n{fenced(p.read_text())}" for p in sorted((CONF / group).glob("*.yaml"))]
    return "\n\n".join(lines) + "\n"


def dataclasses_of(part: Any) -> Iterator[Any]:
    """A group of shared keys and those inside."""
    yield part
    for member in fields(part):
        if is_dataclass(inner := getattr(part, member.name)):
            yield from dataclasses_of(inner)


def setting_rows(part: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Key, values and default of each shared key."""
    for member in fields(part):
        value, known = getattr(part, member.name), member.metadata
        if is_dataclass(value):
            yield from setting_rows(value, f"{prefix}{member.name}.")
        elif value != "???":
            said = ", ".join(map(code, known.get("allowed", ()))) or type_text(
                get_type_hints(type(part)).get(member.name)
            )
            ends = [f"{sign} {known[key]}" for key, sign in LIMITS.items() if known.get(key) is not None]
            yield f"`{prefix}{member.name}`", ", ".join([said, *ends]), code(value)


# Commands, reproduction, notebook


def commands_page() -> str:
    """What every command says of itself."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    lines = ["# Commands", "Exit codes: 0 done, 1 failed, 2 refused, 3 the folder is in use, 75 stopped and to go on."]
    for name, place in scripts.items():
        lines += [f"## {name}", fenced(help_of(name, place), "text")]
    return "\n\n".join(lines) + "\n"


def help_of(name: str, place: str) -> str:
    """What a command prints for `--help`, with its sub-commands."""
    os.environ["COLUMNS"] = "100"
    os.environ.pop("EVERCLIP_DATA", None)
    module, _, function = place.partition(":")
    if name == "everclip":
        words = [sys.executable, "-m", module, "--help"]
        whole = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        kept = [line for line in whole.partition("== Config ==")[0].splitlines() if not line.startswith("tuning/")]
        return "\n".join(kept).rstrip() + "\n\n" + whole[whole.index("Choose:") - 3 :].rstrip()
    main = getattr(import_module(module), function)

    def said(*words: str) -> str:
        out = StringIO()
        with redirect_stdout(out), suppress(SystemExit):
            main([*words, "--help"])
        return out.getvalue().rstrip()

    text = said()
    inner = re.search(r"^  \{([\w,]+)\}$", text, re.MULTILINE)
    return "\n\n".join([text, *(said(word) for word in inner[1].split(","))] if inner else [text])


@cache
def official_files() -> list[tuple[str, list[str]]]:
    """How each file of figures of official code was made, and the tests that read it, by name."""
    found = []
    sources = {path.stem: path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))}
    for path in sorted(GOLDEN.glob("*_official.json")):
        known = json.loads(path.read_text())
        made = next((known[key] for key in ("made_by", "made by", "how") if key in known), None)
        made = [part["made_by"] for part in known.values()] if made is None else made
        readers = {name for name, text in sources.items() if re.search(rf"\b{path.stem}\b", text)}
        users = {
            name for name, text in sources.items() if any(re.search(rf"\.{reader} import", text) for reader in readers)
        }
        tests = {name.removesuffix("_official") for name in readers | users if name.startswith("test_")}
        found.append((made_text(made), sorted(tests)))
    return found


def made_text(made: Any) -> str:
    """How figures were made, as one sentence or several."""
    if isinstance(made, list):
        return "; ".join(map(made_text, made))
    if isinstance(made, dict):
        where = str(made.get("repository", "")).removeprefix("https://github.com/")
        return f"{where} @ {str(made.get('commit', ''))[:7]}: {made.get('code', 'run as published')}"
    return str(made)


def reproduction_page() -> str:
    """What is proven and what is measured."""
    rows = [(text, ", ".join(f"`{test}`" for test in tests)) for text, tests in official_files()]
    text = (ROOT / "REPRODUCTION.md").read_text()
    head, *body = [line for line in text.splitlines() if line.startswith("|")]
    measured = [line for line in body[1:] if line.split("|")[4].strip()]
    missing = len(body) - 1 - len(measured)
    return "\n\n".join([
        "# Reproduction",
        "## Proven: equal to official code",
        "Official code was run on small random weights, and tests hold ours to its logits, losses, gradients and "
        "updates. What was run, and the tests that read the figures (`tests/golden/*_official.json`):",
        table(("official code", "tests"), rows),
        "## Measured",
        f"From `REPRODUCTION.md`, which `make tables` writes. {missing} further rows, all of those with real weights "
        "and data among them, have not been run: no figure of the papers has been reproduced with real weights yet. "
        "`everclip-table NAME` shows each with its published figure and the command to run.",
        "\n".join([head, body[0], *measured]),
    ]) + "\n"  # fmt: skip


def notebook_page() -> str:
    """The notebook as a page, without what it printed."""
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    shown = [fenced(t, "python") if c["cell_type"] == "code" else t for c, t in zip(cells, texts, strict=True)]
    return "\n\n".join([*shown, "The same as a notebook: [notebook.ipynb](notebook.ipynb)."]) + "\n"
