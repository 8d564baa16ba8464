"""Lightning is published twice, as ``lightning`` and as ``pytorch_lightning``; classes of one do not fit the other."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

OTHER = "pytorch_lightning"
SAME = {OTHER: "lightning.pytorch", "lightning_fabric": "lightning.fabric"}  # where each is in the package lightning


def other_classes(kind: type) -> list[type]:
    """The classes of the package ``pytorch_lightning`` that a class inherits from.

    Example:
        >>> other_classes(dict)
        []
    """
    return [each for each in kind.__mro__ if each.__module__.partition(".")[0] == OTHER]


def refuse_other_package(thing: Any, what: str) -> None:
    """Refuse an object of the package ``pytorch_lightning``.

    Args:
        thing: The object.
        what: What it is to the search.

    Raises:
        MisconfigurationException: It is of that package.

    Example:
        >>> refuse_other_package({}, "data module")
    """
    if other_classes(type(thing)):
        raise MisconfigurationException(
            f"the {what} {type(thing).__name__} is of the package pytorch_lightning, and a search is of the package"
            " lightning: import lightning.pytorch there instead, or call advnas_lightning.use_one_lightning() before"
            " anything imports pytorch_lightning"
        )


def use_one_lightning() -> None:
    """Let ``import pytorch_lightning`` give ``lightning.pytorch`` from now on, in this process.

    Libraries that are written for ``pytorch_lightning`` then have the same classes as a search, the Trainer included.

    Raises:
        MisconfigurationException: Something has imported ``pytorch_lightning`` already.

    Example:
        >>> use_one_lightning()  # doctest: +SKIP
        >>> import pytorch_lightning  # doctest: +SKIP
        >>> pytorch_lightning.Trainer is lightning.Trainer  # doctest: +SKIP
        True
    """
    if any(isinstance(finder, _SameLightning) for finder in sys.meta_path):
        return
    for name in SAME:
        if name in sys.modules:
            raise MisconfigurationException(
                f"{name} has been imported already: call use_one_lightning() before that, at the top of the script"
            )
    sys.meta_path.insert(0, _SameLightning())


class _SameLightning(MetaPathFinder, Loader):
    """Finds each module of the one package in the other."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] in SAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        package, _, inside = spec.name.partition(".")
        module = importlib.import_module(".".join([SAME[package], *([inside] if inside else [])]))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # its own one, which importing it under this name has replaced
