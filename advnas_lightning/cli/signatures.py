"""The arguments of classes and functions, read from their source: importing PyTorch would take seconds."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

PLAIN = {"int": int, "float": float, "bool": bool, "str": str}
TYPED = ("advnas_lightning", "lightning")
KEEPS_ARGUMENTS = "_defaults_from_env_vars"  # Lightning's decorator of Trainer.__init__
NO_VALUE = object()  # the default of an argument that has none, or one that is no plain value


@dataclass(frozen=True)
class Argument:
    """One argument of a class or function.

    Attributes:
        name: Its name.
        types: The plain types that it takes, ``type(None)`` among them; ``None`` if it takes others too.
        values: The values that it takes by name.
        default: Its default if that is a plain value, otherwise :data:`NO_VALUE`.

    Example:
        >>> signature("advnas_lightning.AdvantageNAS").arguments["advantage"].values
        ('taylor', 'exact')
    """

    name: str
    types: frozenset[type] | None = None
    values: tuple[Any, ...] = ()
    default: Any = NO_VALUE

    def refuses(self, value: Any) -> str | None:
        """What the argument takes in the place of a plain value that it does not take; ``None`` if it takes it.

        Example:
            >>> Argument("samples", frozenset({int})).refuses("many")
            'a whole number'
        """
        if self.types is None or not isinstance(value, str | int | float | bool | None):
            return None
        types = self.types | {int} if float in self.types else self.types
        if type(value) in types or any(type(value) is type(each) and value == each for each in self.values):
            return None
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
        known = [*map(str, self.values), *(word for kind, word in words.items() if kind in self.types)]
        *first, last = dict.fromkeys(known)
        return f"{', '.join(first)} or {last}" if first else last


@dataclass(frozen=True)
class Signature:
    """The arguments of a class or function.

    Attributes:
        arguments: The arguments by name, ``self`` excluded.
        takes_others: Whether it may take arguments of other names.

    Example:
        >>> "lr" in signature("torch.optim.SGD").arguments
        True
    """

    arguments: dict[str, Argument] = field(default_factory=dict)
    takes_others: bool = False

    def untyped(self) -> Signature:
        """The same names, for values of any type.

        Example:
            >>> Signature({"size": Argument("size", frozenset({int}))}).untyped().arguments["size"].refuses("large")
        """
        return Signature(
            {name: Argument(name, default=each.default) for name, each in self.arguments.items()}, self.takes_others
        )


@cache
def signature(path: str) -> Signature | None:
    """The signature of a class or function, or ``None`` where the source does not tell.

    Types are those of this package and of Lightning alone: other projects may write ``size: int = None``, or take more
    than they write, and Python does not mind.

    Args:
        path: The dotted path, as in ``_target_``. Names that a module imports from another one are followed.

    Example:
        >>> list(signature("advnas_lightning.DARTS").arguments)[:2]
        ['model', 'second_order']
        >>> signature("no_such_package.Thing") is None
        True
    """
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module = _module(".".join(parts[:count]))
        if module is not None:
            found = _of(module, parts[-1]) if count == len(parts) - 1 else None
            return found if found is None or parts[0] in TYPED else found.untyped()
    return None


@dataclass(frozen=True)
class _Module:
    name: str
    is_package: bool
    tree: ast.Module


@cache
def _module(name: str) -> _Module | None:
    """The source of a module, which is looked up by its path alone: to import its package may take seconds."""
    path: list[str] | None = None
    spec = None
    for count, _ in enumerate(parts := name.split("."), start=1):
        dotted = ".".join(parts[:count])
        found = sys.modules.get(dotted)
        spec = getattr(found, "__spec__", None) or _find(dotted, path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    return _Module(name, spec.submodule_search_locations is not None, tree)


def _find(name: str, path: list[str] | None) -> Any:
    for finder in [*sys.meta_path, PathFinder]:
        find = getattr(finder, "find_spec", None)
        spec = find(name, path) if find is not None else None
        if spec is not None:
            return spec
    return None


def _of(module: _Module, name: str, depth: int = 0) -> Signature | None:
    """The signature of what a module calls ``name``."""
    if depth > 10:
        return None
    made = [each for each in _statements(module.tree) if isinstance(each, ast.FunctionDef | ast.ClassDef)]
    if sum(each.name == name for each in made) > 1:  # it depends on something which one it is
        return None
    for node in _statements(module.tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return None if node.decorator_list else _arguments(module, node, is_method=False)[0]
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(module, node, depth)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    source = _module(_absolute(module, node))
                    return None if source is None else _of(source, alias.name, depth + 1)
    return None


def _of_class(module: _Module, node: ast.ClassDef, depth: int) -> Signature | None:
    """The signature of a class. Arguments that it hands on as ``**kwargs`` are those of its only base class."""
    methods = [each for each in ast.walk(node) if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    if any(each not in node.body for each in methods) or len(methods) > 1:  # one is made under a condition
        return None
    if any(isinstance(each, ast.FunctionDef) and each.name == "__new__" for each in node.body):
        return None
    own = next(iter(methods), None)
    if own is not None and any(ast.unparse(each) != KEEPS_ARGUMENTS for each in own.decorator_list):
        return None
    if any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
        arguments = {each.target.id: _argument(module, each.target.id, each.annotation, each.value) for each in fields}  # type: ignore[union-attr]
        return Signature(arguments) if not node.bases else None
    if node.decorator_list or node.keywords:  # which may make another class of it
        return None
    base = node.bases[0] if len(node.bases) == 1 else None
    inherited = _of(module, base.id, depth + 1) if isinstance(base, ast.Name) else None
    if own is None:
        return inherited if node.bases else Signature()
    found, hands_on = _arguments(module, own, is_method=True)
    if not hands_on:
        return found
    if inherited is None:
        return Signature(found.arguments, takes_others=True)
    return Signature({**found.arguments, **_without(inherited, found)}, takes_others=inherited.takes_others)


def _without(inherited: Signature, own: Signature) -> dict[str, Argument]:
    return {name: each for name, each in inherited.arguments.items() if name not in own.arguments}


def _arguments(module: _Module, node: ast.FunctionDef, *, is_method: bool) -> tuple[Signature, bool]:
    given = [*node.args.posonlyargs, *node.args.args]
    missing: list[ast.expr | None] = [None] * (len(given) - len(node.args.defaults))
    pairs = list(zip(given, [*missing, *node.args.defaults], strict=True))[1 if is_method else 0 :]
    pairs += list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
    arguments = {each.arg: _argument(module, each.arg, each.annotation, default) for each, default in pairs}
    hands_on = node.args.kwarg is not None
    return Signature(arguments, takes_others=hands_on), hands_on


def _argument(module: _Module, name: str, annotation: ast.expr | None, default: ast.expr | None) -> Argument:
    types: set[type] = set()
    values: list[Any] = []
    is_plain = annotation is not None and _read(module, annotation, types, values)
    try:
        value = NO_VALUE if default is None else ast.literal_eval(default)
    except ValueError:
        value = NO_VALUE
    return Argument(name, frozenset(types) if is_plain else None, tuple(values), value)


def _read(module: _Module, annotation: ast.expr, types: set[type], values: list[Any]) -> bool:
    """Collect the plain types and the values of an annotation; false if it has other types too."""
    match annotation:
        case ast.Name(id=name) if name in PLAIN:
            types.add(PLAIN[name])
        case ast.Constant(value=None):
            types.add(type(None))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _read(module, left, types, values) and _read(module, right, types, values)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            types.add(type(None))
            return _read(module, inner, types, values)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=parts)):
            return all([_read(module, part, types, values) for part in parts])
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            values += [part.value for part in parts if isinstance(part, ast.Constant)]
        case ast.Name(id=name) if (alias := _alias(module, name)) is not None:
            return _read(*alias, types, values)
        case _:
            return False
    return True


def _alias(module: _Module, name: str, depth: int = 0) -> tuple[_Module, ast.expr] | None:
    """The module and the value of a name for a type, such as ``Selection = Literal["argmax", "process_best"]``."""
    for node in _statements(module.tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(each, ast.Name) and each.id == name for each in node.targets
        ):
            return module, node.value
        if isinstance(node, ast.ImportFrom) and depth < 10:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    source = _module(_absolute(module, node))
                    return None if source is None else _alias(source, alias.name, depth + 1)
    return None


def _absolute(module: _Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module, those under ``if`` and ``try`` included."""
    for node in tree.body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from node.body
            yield from node.orelse
