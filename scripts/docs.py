"""The hook of MkDocs, see `mkdocs.yml`: pages written from the code, formulas that browsers show without help."""

from __future__ import annotations

import html
import re
from itertools import groupby
from typing import Any

from docs_pages import makers
from docs_text import definitions

from everclip.config.catalogue import describe, option_names


def on_config(config: Any) -> Any:
    """Puts the page of each method into the navigation, by family."""
    told = sorted((describe("method", name) for name in option_names("method")), key=lambda entry: entry["family"])
    families = [
        {family.capitalize(): [{m["name"]: f"reference/methods/{m['name']}.md"} for m in members]}
        for family, members in groupby(told, key=lambda entry: entry["family"])
    ]
    for entry in config.nav:
        if "Methods" in entry:
            entry["Methods"] = [{"Overview": entry["Methods"]}, *families]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are written here."""
    from mkdocs.structure.files import File

    for place, make in makers().items():
        files.append(File.generated(config, place, content=make()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts definitions where a page asks for them."""
    return re.sub(r"<!-- everclip: (.*) -->", lambda match: definitions(match[1].split()), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Writes formulas as MathML, which browsers show without help."""
    from latex2mathml.converter import convert

    def shown(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        formula = convert(html.unescape(match[3]).strip(), display=display)
        return f'<div class="formula">{formula}</div>' if display == "block" else str(formula)

    return re.sub(r'<(div|span) class="arithmatex">(\\\[|\\\()(.*?)\\[\])]</\1>', shown, content, flags=re.DOTALL)
