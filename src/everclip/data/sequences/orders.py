"""Orders of classes: as numbered, shuffled with a seed, published, or listed."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from everclip.errors import ConfigError

ClassOrder = str | Sequence[int | str]
LISTS = Path(str(files("everclip"))) / "data" / "splits" / "orders"


def resolve(order: ClassOrder, names: Sequence[str]) -> list[int]:
    """The classes as numbers in the data set, in an order.

    Args:
        order: `identity` (as the data set numbers them); `seed<k>` (NumPy's permutation, as in PILOT with k = 1993);
            `shuffle<k>` (Python's shuffle, as in CODA-Prompt); a file of `data/splits/orders`; or a list of numbers or
            names, of all classes or some of them.
        names: of all classes.

    Raises:
        ConfigError: an unknown order, or a list with a class twice or one that does not exist.
    """
    if not isinstance(order, str):
        return _listed(order, names)
    if order == "identity":
        return list(range(len(names)))
    if found := re.fullmatch(r"(seed|shuffle)(\d+)", order):
        numbers = list(range(len(names)))
        if found[1] == "shuffle":
            random.Random(int(found[2])).shuffle(numbers)
            return numbers
        return [int(number) for number in np.random.RandomState(int(found[2])).permutation(numbers)]
    published = {path.stem: path for path in sorted(LISTS.glob("*.txt"))}
    if order in published:
        numbers = [int(line) for line in published[order].read_text().split()]
        if len(numbers) != len(names):
            raise ConfigError(f"sequence.class_order={order} is for {len(numbers)} classes, but there are {len(names)}")
        return numbers
    raise ConfigError(
        f"sequence.class_order={order}: must be identity or seed<number>, for example seed1993, or shuffle<number>, "
        f"{', '.join(published)}, or a list of classes"
    )


def _listed(order: Sequence[int | str], names: Sequence[str]) -> list[int]:
    numbers: list[int] = []
    for entry in order:
        number = entry if isinstance(entry, int) else names.index(entry) if entry in names else -1
        if not 0 <= number < len(names):
            raise ConfigError(f"sequence.class_order: there is no class {entry!r} among the {len(names)}")
        if number in numbers:
            raise ConfigError(f"sequence.class_order: class {entry!r} occurs twice")
        numbers.append(number)
    return numbers


def by_name(order: ClassOrder, labels: Sequence[str], names: Sequence[str]) -> ClassOrder:
    """An order whose listed entries are labels or names first, also those that look like numbers.

    A number that is neither counts classes, unless labels are numbers themselves.

    Args:
        order: as in `resolve`.
        labels: what folders or lists call the classes.
        names: of the classes.
    """
    if isinstance(order, str):
        return order
    counted = not any(label.isdigit() for label in labels)

    def number(entry: int | str) -> int | str:
        found = next((known for known in (labels, names) if str(entry) in known), None)
        return found.index(str(entry)) if found is not None else entry if counted else str(entry)

    return [number(entry) for entry in order]


def describe(order: ClassOrder) -> str:
    """The name of an order, for records."""
    return order if isinstance(order, str) else "listed"
