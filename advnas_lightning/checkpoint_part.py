"""What this package keeps in a checkpoint, under one name, so that a module may use every other name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = "advnas_lightning"


def keep_in(checkpoint: dict[str, Any], **values: Any) -> None:
    """Add values to this package's part of a checkpoint.

    Args:
        checkpoint: The checkpoint, which is changed.
        values: The values, by name.

    Example:
        >>> checkpoint = {"rng": "the user's own"}
        >>> keep_in(checkpoint, rng=1)
        >>> checkpoint
        {'rng': "the user's own", 'advnas_lightning': {'rng': 1}}
    """
    checkpoint.setdefault(NAME, {}).update(values)


def kept_in(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """This package's part of a checkpoint. In those of earlier versions it is not apart.

    Args:
        checkpoint: The checkpoint.

    Example:
        >>> kept_in({"advnas_lightning": {"rng": 1}}), kept_in({"rng": 1})
        ({'rng': 1}, {'rng': 1})
    """
    part: Mapping[str, Any] = checkpoint.get(NAME, checkpoint)
    return part
