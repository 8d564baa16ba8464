"""The source of this package's own modules, as far as a forward pass needs it."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from advnas_lightning.export.source.values import OURS, Names, literal

__all__ = ["Definitions", "is_ours"]


def is_ours(thing: Any) -> bool:
    """Whether a class or function is of this package.

    Example:
        >>> is_ours(Definitions), is_ours(dict)
        (True, False)
    """
    return str(getattr(thing, "__module__", "")).partition(".")[0] == OURS


class Definitions:
    """The classes, functions and constants that a file of source defines.

    Of a class there are the methods that a pass has called, and their plain attributes, without the constructor.

    Args:
        names: Gets what must be imported.
        called: Whether a pass has called a function.

    Attributes:
        texts: The definitions by name, each one below those that it needs.

    Example:
        >>> from advnas_lightning.tasks.cifar10.operations import Zero
        >>> definitions = Definitions(Names(), lambda function: True)
        >>> definitions.of_class(Zero)
        'Zero'
        >>> definitions.texts["Zero"].splitlines()[0]
        'class Zero(nn.Module):'
    """

    def __init__(self, names: Names, called: Callable[[Any], bool]) -> None:
        self.names, self._called = names, called
        self.texts: dict[str, str] = {}
        self._known: dict[str, Any] = {}

    def of_class(self, kind: type) -> str | None:
        """Define a class, and return its name; or ``None`` where that is not possible.

        Args:
            kind: The class, which is of this package.
        """
        name = kind.__name__
        if name in self._known:
            return name if self._known[name] is kind else None
        self._known[name] = kind
        bases = [self.of_class(base) if is_ours(base) else self.names.of(base) for base in kind.__bases__]
        if None in bases:
            return None
        body = [f'    """{_summary(kind)}"""'] if _summary(kind) else []
        methods = {name: each for name, each in _reached(kind).items() if self._called(each)}
        for attribute in sorted(_attributes(methods.values()) - methods.keys()):
            if attribute in vars(kind) and (text := literal(vars(kind)[attribute], self.names)) is not None:
                body.append(f"    {attribute} = {text}")
        for method in methods.values():
            self._add_globals(method)
            body.append(textwrap.indent(textwrap.dedent(inspect.getsource(method)).rstrip(), "    "))
        self.texts[name] = f"class {name}({', '.join(map(str, bases))}):\n" + "\n\n".join(body or ["    pass"])
        return name

    def _of_function(self, function: Callable[..., Any]) -> None:
        if function.__name__ not in self._known:
            self._known[function.__name__] = function
            self._add_globals(function)
            self.texts[function.__name__] = textwrap.dedent(inspect.getsource(function)).rstrip()

    def _add_globals(self, function: Callable[..., Any]) -> None:
        """Import or define what a function names."""
        module = vars(sys.modules[function.__module__])
        for node in ast.walk(_parsed(function)):
            if not isinstance(node, ast.Name) or node.id not in module or hasattr(builtins, node.id):
                continue
            value = module[node.id]
            if is_ours(value) and isinstance(value, type):
                self.of_class(value)
            elif is_ours(value) and inspect.isfunction(value):
                if self._called(value):
                    self._of_function(value)
            elif not self.names.imported(node.id, value) and (text := literal(value, self.names)) is not None:
                self.texts.setdefault(node.id, f"{node.id} = {text}")


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0] if "__doc__" in vars(kind) else ""


def _parsed(function: Callable[..., Any]) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _attributes(functions: Any) -> set[str]:
    """The attributes of ``self`` that functions name."""
    return {name for function in functions for name in _of_self(function)}


def _of_self(function: Callable[..., Any]) -> Iterator[str]:
    for node in ast.walk(_parsed(function)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def _reached(kind: type) -> dict[str, Callable[..., Any]]:
    """The class's own methods that a forward pass reaches, in the order of the source."""
    found: set[str] = set()
    waiting = ["forward"]
    while waiting:
        name = waiting.pop()
        for base in kind.__mro__:
            method = vars(base).get(name)
            if is_ours(base) and inspect.isfunction(method) and name not in found:
                found.add(name)
                waiting += _of_self(method)
    own = {name: each for name, each in vars(kind).items() if inspect.isfunction(each)}
    return {name: each for name, each in own.items() if name in found}
