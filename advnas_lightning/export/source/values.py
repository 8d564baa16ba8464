"""Values and names as Python writes them."""

from __future__ import annotations

import json
import math
import sys
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = ["OURS", "Names", "literal"]

OURS = "advnas_lightning"
TORCH_VALUES = (torch.dtype, torch.device, torch.memory_format, torch.layout)


class Names:
    """The names that a file of source uses, and the lines that import them.

    Attributes:
        lines: The lines, each once.
        strangers: The modules beside PyTorch and Python's own that they import.

    Example:
        >>> names = Names()
        >>> names.of(nn.Linear), names.of(functional.relu), sorted(names.lines)
        ('nn.Linear', 'F.relu', ['from torch import nn', 'from torch.nn import functional as F'])
    """

    def __init__(self) -> None:
        self.lines: set[str] = set()
        self.strangers: set[str] = set()

    def of(self, thing: Any) -> str | None:
        """What to write for a class or a function, or ``None`` if no file can import it.

        Args:
            thing: The class or function.
        """
        for module, name, line in ((nn, "nn", "from torch import nn"), *FUNCTIONAL):
            for key, value in vars(module).items():
                if value is thing and not key.startswith("_"):
                    self.lines.add(line)
                    return f"{name}.{key}"
        place, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
        if (
            place in (None, "__main__")
            or not name.isidentifier()
            or getattr(sys.modules.get(place), name, None) is not thing
        ):
            return None
        self.add(f"from {place} import {name}", place)
        return name

    def imported(self, name: str, value: Any) -> bool:
        """Add the line that gives a name its value, if there is one.

        Args:
            name: The name.
            value: A module, or what has a module.
        """
        if isinstance(value, ModuleType):
            above, _, last = value.__name__.rpartition(".")
            line = f"from {above} import {last}" if above else f"import {last}"
            self.add(line if last == name else f"{line} as {name}", value.__name__)
            return True
        place, own = getattr(value, "__module__", None), getattr(value, "__name__", "")
        if not isinstance(place, str) or getattr(sys.modules.get(place), own, None) is not value:
            return False
        self.add(f"from {place} import {own}" if own == name else f"from {place} import {own} as {name}", place)
        return True

    def text(self) -> str:
        """The lines that import them, sorted."""
        members: dict[str, list[str]] = {}
        for line in self.lines:
            module, _, member = line.removeprefix("from ").partition(" import ")
            members.setdefault(module if member else "", []).append(member or line)
        whole = [f"{line}\n" for line in sorted(members.pop("", []))]
        return "".join(
            [*whole, *(f"from {name} import {', '.join(sorted(each))}\n" for name, each in sorted(members.items()))]
        )

    def add(self, line: str, module: str) -> None:
        """Add an import, and note its module if that is neither Python's nor PyTorch's.

        Args:
            line: The line.
            module: The module that it imports.
        """
        self.lines.add(line)
        top = module.partition(".")[0]
        if top != "torch" and top not in sys.stdlib_module_names:
            self.strangers.add(module)


FUNCTIONAL = ((functional, "F", "from torch.nn import functional as F"),)


def literal(value: Any, names: Names) -> str | None:
    """A value as Python writes it, or ``None`` if no text stands for it.

    Args:
        value: The value.
        names: Gets what must be imported.

    Example:
        >>> literal((1, "a", [0.5, None], {"k": torch.float32}), Names())
        '(1, "a", [0.5, None], {"k": torch.float32})'
        >>> literal(float("inf"), Names()), literal(object(), Names())
        ("float('inf')", None)
    """
    if value is None or type(value) in (bool, int):
        return repr(value)
    if type(value) is str:
        return json.dumps(value, ensure_ascii=False) if value.isprintable() else repr(value)
    if type(value) is float:
        return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
    if isinstance(value, TORCH_VALUES):
        names.lines.add("import torch")
        return f"torch.{value!r}" if isinstance(value, torch.device) else repr(value)
    if isinstance(value, torch.Size):
        return literal(tuple(value), names)
    if type(value) in (tuple, list, set):
        inner = [literal(each, names) for each in value]
        if None in inner:
            return None
        if type(value) is set:
            return f"{{{', '.join(map(str, inner))}}}" if inner else "set()"
        text = ", ".join(map(str, inner))
        return f"[{text}]" if type(value) is list else f"({text}{',' if len(inner) == 1 else ''})"
    if type(value) is dict:
        pairs = [(literal(key, names), literal(each, names)) for key, each in value.items()]
        return None if any(None in pair for pair in pairs) else f"{{{', '.join(f'{k}: {v}' for k, v in pairs)}}}"
    if isinstance(value, type) or callable(value):
        return names.of(value)
    return None
