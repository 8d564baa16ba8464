"""Checks of arguments. Each returns the value, or raises a ValueError that names it and says what to give instead."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

LONGEST = 100  # characters of a value in a message
MOST_WORKERS = 1024  # far more of them end a process without a message


def as_number(value: Any) -> float | None:
    """A real number as a float, and ``None`` for anything else. A whole number that no float can hold is infinite.

    NumPy's numbers and tensors of one number count as numbers. True and false do not.

    Example:
        >>> as_number(3), as_number(10**400), as_number(True), as_number("3")
        (3.0, inf, None, None)
    """
    if not isinstance(value, Real) and callable(getattr(value, "item", None)):
        try:
            value = value.item()
        except (RuntimeError, TypeError, ValueError):  # several numbers, or none
            return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:  # of either sign: no check takes either
        return math.inf


def check_int(name: str, value: Any, *, least: int, most: int | None = None) -> int:
    """A whole number of at least ``least``, and at most ``most``. ``True`` and ``False`` are none.

    Example:
        >>> check_int("epochs", True, least=1)
        Traceback (most recent call last):
            ...
        ValueError: epochs=True must be a whole number of at least 1
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        bound = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={_told(value)} must be a whole number {bound}")
    return value


def check_workers(name: str, value: Any) -> int:
    """A number of threads or processes that share the work on one computer.

    It may be larger than the number of cores here, since the same settings may be used on several computers.

    Example:
        >>> check_workers("threads", 100_000)
        Traceback (most recent call last):
            ...
        ValueError: threads=100000 must be a whole number from 1 to 1024
    """
    return check_int(name, value, least=1, most=max(MOST_WORKERS, os.cpu_count() or 1))


def check_seed(name: str, value: Any) -> int:
    """A seed of random draws: any whole number that torch's generators take.

    Example:
        >>> check_seed("seed", 0)
        0
    """
    return check_int(name, value, least=-(2**63), most=2**64 - 1)


def check_positive(name: str, value: Any, *, zero: bool = False, most: float = math.inf) -> float:
    """A finite number above zero, or zero where ``zero`` allows it, and at most ``most``.

    Example:
        >>> check_positive("gamma", 0.05, most=1)
        0.05
    """
    number = as_number(value)
    if number is None or not (0 < number < math.inf or (zero and number == 0)) or number > most:
        bound = "" if most == math.inf else f" and at most {most:g}"
        raise ValueError(f"{name}={_told(value)} must be a finite number {'of at least' if zero else 'above'} 0{bound}")
    return value if isinstance(value, int | float) else number


def check_bool(name: str, value: Any) -> bool:
    """True or false, and nothing that only counts as one of them.

    Example:
        >>> check_bool("offload", 1)
        Traceback (most recent call last):
            ...
        ValueError: offload=1 must be true or false
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={_told(value)} must be true or false")
    return value


def check_one_of(name: str, value: Any, allowed: Sequence[str]) -> Any:
    """One of a few words.

    Example:
        >>> check_one_of("advantage", "exact", ("taylor", "exact"))
        'exact'
    """
    if value not in allowed:
        raise ValueError(f"{name}={_told(value)} is unknown: use {' or '.join(allowed)}")
    return value


def check_folder(name: str, value: Any) -> Path:
    """The path of a folder to write into, which need not be there.

    Example:
        >>> check_folder("output", "new/folder").name
        'folder'
        >>> check_folder("output", __file__)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: output=...validate.py: validate.py is a file: name a folder
    """
    path = Path(str(value))
    for each in (path, *path.parents):
        if each.exists() and not each.is_dir():
            raise ValueError(f"{name}={path}: {each.name} is a file: name a folder")
    return path


def check_share(name: str, value: Any, *, zero: bool = False) -> float:
    """A number between 0 and 1; 0 itself only where ``zero`` allows it, and never 1.

    Example:
        >>> check_share("dropout", 0.5, zero=True)
        0.5
    """
    number = as_number(value)
    if number is None or not (0 < number < 1 or (zero and number == 0)):
        bound = "at least 0 and below 1" if zero else "above 0 and below 1"
        raise ValueError(f"{name}={_told(value)} must be a number {bound}")
    return number


def check_temperatures(tau_max: Any, tau_min: Any) -> tuple[float, float]:
    """Two positive temperatures, the first of which is not below the second.

    Example:
        >>> check_temperatures(10.0, 0.1)
        (10.0, 0.1)
    """
    check_positive("tau_max", tau_max)
    if check_positive("tau_min", tau_min) > tau_max:
        raise ValueError(f"tau_max={_told(tau_max)} must not be below tau_min={_told(tau_min)}: temperatures fall")
    return tau_max, tau_min


def check_factory(name: str, factory: Any) -> Any:
    """A function that makes an object, or ``None``.

    Example:
        >>> check_factory("weight_optimizer", 0.1)
        Traceback (most recent call last):
            ...
        ValueError: weight_optimizer is a float: give a factory, a callable such as partial(Adam, …)
    """
    if factory is not None and not callable(factory):
        kind = type(factory)
        plain = kind.__module__ == "builtins"  # a name or a rate, and not what the factory is to make
        made = ("Adam" if name.endswith("optimizer") else "StepLR") if plain else kind.__name__
        raise ValueError(f"{name} is a {kind.__name__}: give a factory, a callable such as partial({made}, …)")
    return factory


def _told(value: Any) -> str:
    """A value for a message: in one line, and not longer than one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
