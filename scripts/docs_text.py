"""Markdown from docstrings, signatures and values, for the pages of the documentation."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

from annotated_types import BaseMetadata
from pydantic.fields import FieldInfo
from typing_extensions import is_protocol

SECTION = r"^(Family|Source|Sources|Differs|Trained): "
WORDS = {"int": "whole number", "float": "number", "str": "text", "bool": "true, false", "Sequence": "list"}
WORDS |= {"Mapping": "mapping", "dict": "mapping", "tuple": "list", "list": "list"}
SIGNS = {
    "gt": "above",
    "ge": "at least",
    "lt": "below",
    "le": "at most",
    "min_length": "of a length from",
    "pattern": "as",
}


def split_doc(doc: str) -> tuple[str, str, dict[str, str]]:
    """Of a module's docstring the first line, the paragraphs after it, and what it says under titles."""
    title, _, rest = doc.partition("\n")
    parts = re.split(SECTION, rest, flags=re.MULTILINE)
    said = {heading: text.strip() for heading, text in zip(parts[1::2], parts[2::2], strict=True)}
    return title, parts[0].strip(), said


def options_table(target: Any, options: dict[str, Any]) -> str:
    """Parameters of a constructor with type, default and meaning."""
    function = vars(target).get("__init__", target.__init__) if inspect.isclass(target) else target
    hints = typing.get_type_hints(function, include_extras=True)
    said = arguments(inspect.getdoc(target) or "")
    rows = [(f"`{key}`", type_text(hints.get(key)), code(value), said.get(key, "")) for key, value in options.items()]
    return table(("parameter", "values", "default", "meaning"), rows)


def arguments(doc: str) -> dict[str, str]:
    """What a docstring says of each argument, or attribute."""
    found: dict[str, str] = {}
    for block in re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", doc, re.MULTILINE):
        for names, text in re.findall(r"^    ([\w, ]+): (.*(?:\n     +.*)*)", block, re.MULTILINE):
            found |= {name.strip(): " ".join(text.split()) for name in names.split(",")}
    return found


def type_text(hint: Any) -> str:
    """What values a type allows, in words."""
    origin, own = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return " ".join(filter(None, [type_text(own[0]), ", ".join(limits(own[1:]))]))
    if origin is typing.Literal:
        return ", ".join(map(code, own))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(part) for part in own)
    if hint is type(None):
        return "null"
    if isinstance(origin, type):
        inner = ", ".join(type_text(part) for part in own if part is not Ellipsis)
        return f"{WORDS.get(origin.__name__, origin.__name__)} of {inner}" if inner else origin.__name__
    name = getattr(hint, "__name__", "")
    if isinstance(hint, type) and (is_protocol(hint) or is_dataclass(hint) or not name.islower()):
        return f"a part: `{name}`"
    return WORDS.get(name, name)


def limits(metadata: Iterable[Any]) -> Iterator[str]:
    """The limits in the annotations of a type."""
    for known in metadata:
        parts = known.metadata if isinstance(known, FieldInfo) else [known]
        for part in parts:
            if isinstance(part, BaseMetadata) or hasattr(part, "pattern"):
                for key, sign in SIGNS.items():
                    if (value := getattr(part, key, None)) is not None:
                        yield f"{sign} {code(value) if key == 'pattern' else value}"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [list(heads), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def code(value: Any) -> str:
    """A value as it is written on the command line."""
    text = json.dumps(value) if not isinstance(value, str) else value
    return f"`{text}`" if text else '`""`'


def fenced(text: str, language: str = "yaml") -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def definitions(names: Iterable[str]) -> str:
    """The definitions of modules, as their docstrings have them."""
    lines = ["## Definitions in the code"]
    for name in names:
        module = import_module(f"everclip.{name}")
        lines += [f"**`{module.__name__}`**: {(inspect.getdoc(module) or '').strip()}"]
        for key, member in vars(module).items():
            own = getattr(member, "__module__", None) == module.__name__ and not key.startswith("_")
            if own and (inspect.isfunction(member) or inspect.isclass(member)):
                lines += [f"`{key}`", quoted(inspect.getdoc(member) or "")]
    return "\n\n".join(lines)


def quoted(doc: str) -> str:
    """A docstring with its sections as lists, set off from the text around."""
    text = re.sub(r"^(Args|Returns|Attributes|Raises):$", r"*\1*:\n", doc, flags=re.MULTILINE)
    text = re.sub(r"^    (\w[\w, ]*): ", r"- `\1`: ", text, flags=re.MULTILINE)
    text = re.sub(r"^    (`[\w/<>]+`.*[:=])", r"- \1", text, flags=re.MULTILINE)
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())
