"""What a constructor takes and promises, read from its source: to import it takes torch along, and seconds."""

from __future__ import annotations

import ast
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from typing_extensions import override

Node = ast.ClassDef | ast.FunctionDef | ast.expr
REQUIRED = "???"
RUNTIME = ("backbone", "load")  # arguments that no configuration gives


def signature_of(target: Any) -> dict[str, inspect.Parameter]:
    """The keyword arguments that a configuration may set."""
    parameters = inspect.signature(target).parameters
    return {name: p for name, p in parameters.items() if name not in RUNTIME and p.kind is not p.POSITIONAL_ONLY}


class UnreadableError(Exception):
    """The source does not say it plainly."""


class Constructor(ABC):
    """A class or function that a configuration names.

    Attributes:
        module: docstring of the module that it stands in.
    """

    module: str

    @abstractmethod
    def options(self) -> list[str]:
        """The keyword arguments that a configuration may set."""

    @abstractmethod
    def default(self, option: str) -> Any:
        """Of an option, `???` where it is required."""

    @abstractmethod
    def trait(self, name: str) -> Any:
        """The value of a class attribute."""


class Imported(Constructor):
    """As Python has it; raises whatever importing it raises."""

    def __init__(self, name: str) -> None:
        from hydra.utils import get_object  # which the sources themselves are read without

        self._target = get_object(name)
        self.module = inspect.getdoc(inspect.getmodule(self._target)) or ""

    @override
    def options(self) -> list[str]:
        return list(signature_of(self._target))

    @override
    def default(self, option: str) -> Any:
        given = signature_of(self._target)[option].default
        return REQUIRED if given is inspect.Parameter.empty else given

    @override
    def trait(self, name: str) -> Any:
        return getattr(self._target, name)


class Written(Constructor):
    """As its file has it, and the files that this imports from its own package and from everclip.

    Raises:
        UnreadableError: here and in all methods; `Imported` knows.
    """

    def __init__(self, name: str) -> None:
        self._source, node = _find(name, name.split(".")[0])
        self.module = self._source.doc
        self._classes = _lineage(self._source, node) if isinstance(node, ast.ClassDef) else []
        members = [(own, part) for own, parts in self._classes for part in parts.body]
        makers: list[tuple[_Source, Node]] = [
            (own, part) for own, part in members if isinstance(part, ast.FunctionDef) and part.name == "__init__"
        ]
        self._home, function = (makers or [(self._source, node)])[0]
        if not isinstance(function, ast.FunctionDef) or function.args.vararg or function.args.kwarg:
            raise UnreadableError(name)
        arguments, named = function.args.args, function.args.kwonlyargs
        required: list[None] = [None] * (len(arguments) - len(function.args.defaults))
        defaults = [*required, *function.args.defaults, *function.args.kw_defaults]
        given = dict(zip([argument.arg for argument in (*arguments, *named)], defaults, strict=True))
        self._defaults = {key: value for key, value in given.items() if key not in ("self", *RUNTIME)}

    @override
    def options(self) -> list[str]:
        return list(self._defaults)

    @override
    def default(self, option: str) -> Any:
        given = self._defaults[option]
        return REQUIRED if given is None else self._home.value(given)

    @override
    def trait(self, name: str) -> Any:
        for source, node in self._classes:
            if name in (own := _names(node.body, source.package)):
                return source.value(own[name])
        raise UnreadableError(name)


class _Source:
    """A module: its docstring, what it defines, and where it has the rest from."""

    def __init__(self, name: str) -> None:
        path = _path(name)
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, ValueError, SyntaxError) as error:
            raise UnreadableError(name) from error
        self.name = name
        self.package = name if path.stem == "__init__" else name.rpartition(".")[0]
        self.doc = ast.get_docstring(tree) or ""
        self.names = _names(tree.body, self.package)

    def value(self, node: Node | str) -> Any:
        """What an expression stands for, where that is written out."""
        if isinstance(node, ast.Name):
            source, node = _find(f"{self.name}.{node.id}", self.name.split(".")[0])
            return source.value(node)
        try:
            return ast.literal_eval(node)
        except ValueError as error:
            raise UnreadableError(ast.dump(node) if isinstance(node, ast.AST) else node) from error


_read = cache(_Source)


def _path(module: str) -> Path:
    """The file of a module; `importlib.util.find_spec` would import the packages that it lies in."""
    places: Sequence[str] | None = None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:end]), places)
        if spec is None:
            raise UnreadableError(module)
        places = spec.submodule_search_locations or []
    return Path(str(spec and spec.origin))


def _names(body: list[ast.stmt], package: str) -> dict[str, Node | str]:
    """What statements give names to; what they import by its whole name."""
    found: dict[str, Node | str] = {}
    for part in body:
        if isinstance(part, ast.ImportFrom):
            module = resolve_name("." * part.level + (part.module or ""), package)
            found |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in part.names}
        elif isinstance(part, ast.ClassDef | ast.FunctionDef):
            found[part.name] = part
        elif isinstance(part, ast.Assign):
            found |= {target.id: part.value for target in part.targets if isinstance(target, ast.Name)}
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.value:
            found[part.target.id] = part.value
    return found


def _find(name: str, home: str) -> tuple[_Source, Node]:
    """Where something is defined, and how."""
    module, _, member = name.rpartition(".")
    if module.split(".")[0] not in (home, "everclip") or member not in _read(module).names:
        raise UnreadableError(name)
    found = _read(module).names[member]
    return _find(found, home) if isinstance(found, str) else (_read(module), found)


def _lineage(source: _Source, node: ast.ClassDef) -> list[tuple[_Source, ast.ClassDef]]:
    """A class and those it inherits from, in Python's order, but for those of other packages."""

    def like(source: _Source, node: ast.ClassDef) -> type:
        bases = []
        for base in node.bases:
            try:
                home, found = _find(f"{source.name}.{ast.unparse(base)}", source.name.split(".")[0])
            except UnreadableError:
                continue
            if isinstance(found, ast.ClassDef):
                bases.append(likes.setdefault(found, like(home, found)))
        made = type(node.name, tuple(bases), {})
        written[made] = (source, node)
        return made

    likes: dict[ast.ClassDef, type] = {}
    written: dict[type, tuple[_Source, ast.ClassDef]] = {}
    return [written[one] for one in like(source, node).__mro__[:-1]]
