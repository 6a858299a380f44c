"""What keeps stored runs valid while the code goes on: parts that moved, and options that were added later.

A part that moves is added to `MOVED`: digests go on naming it as it was first called, and stored configurations are
read with today's names. An option that is added later stands in its group's file with the value at which it changes
nothing,

    method:
      _target_: everclip.methods.er.Er
      mixup: 0.0
      _neutral_: {mixup: 0.0}

and digests leave it out at that value, so that earlier runs are found. Shared keys say so in the schema (`added`).
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

MOVED = {"everclip.schedules.Schedule": "everclip.training.schedules.Schedule"}
NEUTRAL = "_neutral_"


def lasting(value: Any) -> Any:
    """A group's settings as digests know them: parts by first names, without later options that change nothing."""
    if isinstance(value, list):
        return [lasting(part) for part in value]
    if not isinstance(value, dict):
        return value
    neutral = value.get(NEUTRAL, {})
    kept = {
        key: part for key, part in value.items() if key != NEUTRAL and not (key in neutral and part == neutral[key])
    }
    first_names = {today: first for first, today in MOVED.items()}
    named = {key: lasting(part) for key, part in kept.items()}
    target = kept.get("_target_")
    return named | {"_target_": first_names.get(target, target)} if isinstance(target, str) else named


def lasting_shared(schema: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Shared settings as digests know them: without keys that were `added` to the schema and change nothing."""
    kept = {}
    for member in fields(schema):
        default, value = getattr(schema, member.name), values[member.name]
        if is_dataclass(default):
            kept[member.name] = lasting_shared(default, value)
        elif "neutral" not in member.metadata or value != member.metadata["neutral"]:
            kept[member.name] = value
    return kept


def options(value: Any) -> Any:
    """A group's settings as constructors take them, without what is said about them."""
    if isinstance(value, list):
        return [options(part) for part in value]
    return {key: options(part) for key, part in value.items() if key != NEUTRAL} if isinstance(value, dict) else value


def todays(value: Any) -> Any:
    """Stored settings with every part called by today's name."""
    if isinstance(value, list):
        return [todays(part) for part in value]
    if not isinstance(value, dict):
        return value
    names = {"_target_": MOVED.get(str(value["_target_"]), value["_target_"])} if "_target_" in value else {}
    return {key: todays(part) for key, part in value.items()} | names
