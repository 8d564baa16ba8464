"""Patterns of the qualified names of modules, such as ``layer3.*.conv2``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches a qualified name.

    The pattern is matched part by part. Within a part ``*`` stands for any characters, ``?`` for one character and
    ``[34]`` for one of those in the brackets. None of them matches a dot. A part ``**`` stands for any number of parts,
    also for none; at the end of the pattern it stands for at least one.

    Args:
        name: The qualified name of a module.
        pattern: The pattern.

    Example:
        >>> [name for name in ("conv", "layer3.conv", "layer3.0.conv", "layer3.0.bn.conv") if matches(name, "*.*.conv")]
        ['layer3.0.conv']
        >>> [name for name in ("conv", "layer3.conv", "layer3.0.conv") if matches(name, "**.conv")]
        ['conv', 'layer3.conv', 'layer3.0.conv']
        >>> [name for name in ("layer3", "layer3.conv", "layer3.0.conv") if matches(name, "layer3.**")]
        ['layer3.conv', 'layer3.0.conv']
    """
    return _fits(name.split("."), pattern.split("."))


def _fits(name: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_fits(name[skipped:], pattern[1:]) for skipped in range(len(pattern) == 1, len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _fits(name[1:], pattern[1:])


def widened(pattern: str, names: Iterable[str]) -> str | None:
    """The pattern with ``**`` for ``*``, if it matches one of the names then.

    Args:
        pattern: A pattern that matches none of the names.
        names: The qualified names of the modules.

    Example:
        >>> widened("net.*.conv?", ["net.layer3.0.conv1"]), widened("net.*conv?", ["net.layer3.0.conv1"])
        ('net.**.conv?', 'net.**.*conv?')
    """
    parts = []
    for part in pattern.split("."):
        starts, ends = part.startswith("*"), part.endswith("*")
        if part.strip("*"):  # a star at an end may have stood for whole parts, too
            parts += ["**"] * starts + [part] + ["**"] * ends
        else:
            parts.append("**" if part else "")
    names = list(names)
    wider = ".".join(parts)
    return wider if any(matches(name, wider) for name in names) else None
