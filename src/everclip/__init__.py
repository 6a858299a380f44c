"""Everclip: continual, parameter-efficient adaptation of CLIP-like models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everclip.commands.load import AdaptedModel

__all__ = ["load"]


def load(*arguments: Any, **keywords: Any) -> AdaptedModel:
    """The adapted model of a run folder, see `everclip.commands.load.load`; imports torch only when called."""
    from everclip.commands.load import load as load_adapted

    return load_adapted(*arguments, **keywords)
