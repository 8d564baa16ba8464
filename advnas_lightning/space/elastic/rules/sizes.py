"""The sizes to choose from, as whole numbers or as shares of what each block has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import floor
from typing import Any

from advnas_lightning.texts import listed

Sizes = Iterable[int | float]
LARGEST_DENOMINATOR = 10_000  # of a share in a candidate's name


def checked(kind: str, sizes: Any) -> tuple[int | float, ...]:
    """Sizes as a user gives them, after a look at each alone.

    Args:
        kind: The option that has them.
        sizes: What should be a list of whole numbers and shares.

    Raises:
        ValueError: It is none.

    Example:
        >>> checked("ffn", [0.5, 1.0])
        (0.5, 1.0)
        >>> checked("ffn", [1.5])
        Traceback (most recent call last):
            ...
        ValueError: ffn=1.5 is no size: give a whole number from 1, or a share up to 1.0 of what each block has
    """
    listable = isinstance(sizes, Iterable) and not isinstance(sizes, str | Mapping)
    found = tuple(sizes) if listable else ()
    if not found:
        raise ValueError(f"{kind}={sizes!r} has no sizes: give a list, such as [0.25, 0.5, 1.0]")
    for size in found:
        whole = isinstance(size, int) and not isinstance(size, bool) and size >= 1
        if not whole and not (isinstance(size, float) and 0 < size <= 1):
            raise ValueError(
                f"{kind}={size!r} is no size: give a whole number from 1, or a share up to 1.0 of what each block has"
            )
    return found


def in_numbers(kind: str, sizes: Sequence[int | float], full: int, place: str, group: int = 1) -> list[int]:
    """The sizes of one block in whole numbers; shares are rounded to whole groups.

    Args:
        kind: The option that has the sizes.
        sizes: Whole numbers and shares.
        full: The size that the block has.
        place: The block's name, for the message.
        group: How many entries stay together, such as the channels of a group of a convolution.

    Raises:
        ValueError: A size is above the block's, a share gives nothing, two sizes are equal, or the block's own size is
            missing.

    Example:
        >>> in_numbers("channels", [0.25, 0.5, 1.0], 64, "layer1.0")
        [16, 32, 64]
        >>> in_numbers("channels", [0.3, 1.0], 64, "layer1.0", group=8)
        [16, 64]
        >>> in_numbers("channels", [16, 32], 64, "layer1.0")
        Traceback (most recent call last):
            ...
        ValueError: channels=[16, 32] lacks the 64 that 'layer1.0' has, so that the network itself is no candidate: \
add 64, or 1.0
    """
    found: dict[int, int | float] = {}
    for size in sizes:
        number = group * floor(size * full / group + 0.5) if isinstance(size, float) else size
        if number == 0:
            raise ValueError(f"{kind}={size} of the {full} of {place!r} is nothing: give a larger share")
        if number > full:
            raise ValueError(f"{kind}={size} is above the {full} that {place!r} has: give sizes up to that, or shares")
        if number in found:
            both = listed(map(str, (found[number], size)))
            raise ValueError(f"{kind} has {both}, which are both {number} of the {full} of {place!r}: leave one out")
        found[number] = size
    if full not in found:
        raise ValueError(
            f"{kind}={list(sizes)} lacks the {full} that {place!r} has, so that the network itself is no candidate: add"
            f" {full}, or 1.0"
        )
    return list(found)


def names(sizes: Sequence[int | float], numbers: Sequence[Sequence[int]]) -> list[str]:
    """The names of an edge's candidates: their sizes, or the shares where its blocks have different sizes.

    Args:
        sizes: The sizes as a user gives them.
        numbers: The same in whole numbers, for each block of the edge.

    Example:
        >>> names([0.25, 1.0], [[16, 64], [16, 64]]), names([0.25, 1.0], [[16, 64], [32, 128]])
        (['16', '64'], ['1/4', '1'])
    """
    first, *others = numbers
    if all(other == first for other in others):
        return [str(number) for number in first]
    return [str(Fraction(size).limit_denominator(LARGEST_DENOMINATOR)) for size in sizes]
