"""Which rows of a long table run by default."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_but(rows: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Rows for ``parametrize``, of which all but the ``quick`` ones are slow."""
    rows = list(rows)
    assert all(row in rows for row in quick)
    return [row if row in quick else pytest.param(*_values(row), marks=pytest.mark.slow) for row in rows]


def _values(row: Any) -> tuple[Any, ...]:
    return row if isinstance(row, tuple) else (row,)
