"""Texts from files and settings made harmless for what shows them; formats escape their own signs besides."""

from __future__ import annotations

import re

from everclip.digest import json_sha256

# Control characters, which are orders to a terminal or end a line; what turns the direction of writing; halves of
# surrogate pairs, which are in names of files that are no UTF-8 and cannot be written.
_ORDERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str, keep: str = "") -> str:
    r"""The text with every sign that is an order rather than a letter shown as its number, as in `\x1b`.

    Args:
        text: any.
        keep: signs that stay, as the end of a line where there may be several.
    """

    def shown(found: re.Match[str]) -> str:
        sign = found[0]
        return sign if sign in keep else f"\\x{ord(sign):02x}" if ord(sign) < 256 else f"\\u{ord(sign):04x}"

    return _ORDERS.sub(shown, text)


def file_name(text: str) -> str:
    """A name for a file or folder that is inside the folder it is put in, whatever the text; other for other texts."""
    name = re.sub(r"[^\w.+=-]", "_", text).lstrip(".")[:100]
    return name if text and name == text else f"{name}_{json_sha256(text)[:8]}"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
