"""The straight line between two stored models: weights that stand for the same, and what lies between them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from everclip.commands.from_run import folded
from everclip.commands.load import checkpoint_of, load_checkpoint, read_config
from everclip.config.build import build
from everclip.errors import ConfigError
from everclip.methods.base import Method
from everclip.modules.class_rows import ClassRows
from everclip.runs.folder import RunFolder
from everclip.types import ClassSet

PRETRAINED = "pretrained"
PREFIX = "backbone.model."


@dataclass(frozen=True)
class Line:
    """Two states of one method.

    Attributes:
        method: whose weights are moved.
        classes: seen by it.
        facts: of the checkpoint at the end, see `everclip.commands.load.AdaptedModel`.
        first: values at 0, by name.
        last: values at 1.
    """

    method: Method
    classes: ClassSet
    facts: Mapping[str, Any]
    first: dict[str, Tensor]
    last: dict[str, Tensor]

    def layers(self) -> dict[str, list[str]]:
        """The names of what differs between the ends, by layer."""
        found: dict[str, list[str]] = {}
        for name in self.last:
            if not torch.equal(self.first[name], self.last[name]):
                found.setdefault(layer_of(name), []).append(name)
        return found

    @torch.no_grad()
    def place(self, alpha: float, names: Collection[str] | None = None) -> None:
        """Puts the method at a share of the way; of `names` alone, with all else at the start, if they are given."""
        state = self.method.state_dict()
        for name, last in self.last.items():
            share = alpha if names is None or name in names else 0.0
            ends = {0.0: self.first[name], 1.0: last}  # exactly
            state[name].copy_(ends[share] if share in ends else self.first[name] * (1 - share) + last * share)


def layer_of(name: str) -> str:
    """The block that a weight belongs to, `visual.transformer.resblocks.3`; outside of blocks its module."""
    inner = name.removeprefix(PREFIX)
    block = re.match(r"(?:\w+\.)*?\w+\.\d+(?=\.)", inner)
    return block[0] if block else re.sub(r"\.(weight|bias)$", "", inner)


def path_of(place: str) -> Path:
    """The checkpoint that is meant by itself, or by its run's folder, whose last it is.

    Raises:
        MissingError: no such folder or checkpoint.
    """
    path = Path(place)
    return path if path.suffix == ".safetensors" else checkpoint_of(path, -1)


def line(start: str, end: str, trust: Sequence[str] = ()) -> Line:
    """The line between two stored models, each the checkpoint or the folder of a run.

    What is nothing but weights of the two towers is compared as such, with low-rank updates folded in, so that any
    methods can be at the ends. Other methods are mixed value by value, rows of classes by the classes' names.

    Args:
        start: may also be `pretrained`, the backbone that the end was trained from.
        end: whose tasks and classes are meant.
        trust: see `everclip.load`.

    Raises:
        ConfigError: the ends are not of the same form, or know other classes.
    """
    path = path_of(end)
    model = load_checkpoint(path, trust=trust)
    if start == PRETRAINED:
        first, classes = Method(build("backbone", read_config(path, trust=trust).backbone, load=True)), model.classes
    else:
        other = load_checkpoint(path_of(start), trust=trust)
        first, classes = other.method, other.classes
    weights = not first.outside_towers() and not model.method.outside_towers()
    if weights:
        if start != PRETRAINED:
            folded(first, path_of(start), trust=trust)
        folded(model.method, path, trust=trust)
    else:
        _require_likeness(start, first, end, model.method)
        align(first, classes, model.method, model.classes)
    before, after = _values(first, weights), _values(model.method, weights)
    shapes, wanted = ({name: value.shape for name, value in state.items()} for state in (before, after))
    if odd := [name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name)]:
        raise ConfigError(f"{min(odd)} of {start} and of {end} are not of the same shape: there is no straight line")
    return Line(model.method, model.classes, model.facts, before, after)


def name_of(start: str, end: Path) -> str:
    """What files call the start: `pretrained`, a session of the same run, or one of another run by what that was."""
    path = Path() if start == PRETRAINED else path_of(start)
    if start == PRETRAINED or path.absolute().parent == end.absolute().parent:
        return path.stem or PRETRAINED
    run = RunFolder(path.parent.parent).read_run()
    return "_".join(str(part) for part in (run.get("method"), run.get("digest"), run.get("seed"), path.stem))


def _values(method: Method, weights: bool) -> dict[str, Tensor]:
    """Copies of all that can be interpolated."""
    state = method.state_dict().items()
    kept = {name: value.clone() for name, value in state if value.is_floating_point()}
    return {name: value for name, value in kept.items() if name.startswith(PREFIX)} if weights else kept


def _require_likeness(start: str, first: Method, end: str, last: Method) -> None:
    """Refuses two methods that are more than weights of the towers, and not the same."""
    kinds = [type(method).__name__ for method in (first, last)]
    if kinds[0] != kinds[1]:
        more, hooks = next((m, h) for m in (last, first) if (h := m.outside_towers()))
        place = end if more is last else start
        raise ConfigError(
            f"{place} is more than weights of the towers (in {', '.join(hooks)} of {type(more).__name__}), which the "
            f"other end, {kinds[0] if more is last else kinds[1]}, does not have; give two runs of the same method"
        )
    if any(".parametrizations." in name for name in last.state_dict()):
        raise ConfigError(f"{kinds[1]} has low-rank updates beside other parts; their factors have no straight line")


def align(first: Method, classes: ClassSet, last: Method, wanted: ClassSet) -> None:
    """Gives a method's classes the places that classes of the same names have in another.

    Raises:
        ConfigError: a class is missing, or has another place in something that cannot be sorted anew.
    """
    parts = dict(first.named_modules())
    for name, module in last.named_modules():
        own, ids = parts.get(name), getattr(module, "ids", None)
        if own is None or not isinstance(ids, Tensor):
            continue
        place = {class_id: position for position, class_id in enumerate(wanted.ids)}
        asked = wanted.select([place[class_id] for class_id in ids.tolist()])
        meant = classes.adopt(asked)  # the same classes by the numbers of the first
        known = {int(class_id) for class_id in own.ids}
        if missing := [n for n, class_id in zip(meant.names, meant.ids, strict=True) if class_id not in known]:
            raise ConfigError(
                f"the start knows no class {missing[0]!r}{f' and {len(missing) - 1} more' if missing[1:] else ''} "
                "of the end; its classes must be among those of the start, as after the same session"
            )
        if isinstance(own, ClassRows):
            own.replace(meant, own.of(meant))
        elif own.ids.tolist() != list(meant.ids):
            raise ConfigError(f"{type(first).__name__} has its classes in another order at the two ends")


def distance(start: Sequence[Tensor], end: Sequence[Tensor]) -> float:
    """Length of the way between two sets of weights, in lengths of the first (of the way alone if that is 0)."""
    way = parameters_to_vector([b - a for a, b in zip(start, end, strict=True)]).norm()
    own = parameters_to_vector(start).norm()
    return float(way / own) if own > 0 else float(way)
