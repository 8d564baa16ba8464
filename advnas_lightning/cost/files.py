"""The file of costs: of one kind, as a search leaves it, or of several, each with the machine that measured it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advnas_lightning.cost.table import CostTable
from advnas_lightning.folder_lock import turn_in
from advnas_lightning.reading import read_json
from advnas_lightning.runs import write_json
from advnas_lightning.space.search_space import SearchSpace
from advnas_lightning.texts import listed, plain

LOCK = ".costs.lock"  # is there while a process adds to a file of costs


@dataclass(frozen=True)
class Measurement:
    """The costs of one kind, and how they were measured.

    Attributes:
        table: The costs.
        measured: How they were measured: the machine, the versions and the batch. It is empty where a search did it.

    Example:
        >>> table = CostTable("latency", {"edge": {"linear": 0.5, "skip": 0.0}}, 1.0)
        >>> Measurement(table, {"device": "cpu"}).measured["device"]
        'cpu'
    """

    table: CostTable
    measured: Mapping[str, Any] = field(default_factory=dict)


def read_costs(path: Path, space: SearchSpace | None = None) -> dict[str, Measurement]:
    """The costs in a file, by their names.

    Args:
        path: The file.
        space: The edges and candidates whose costs are wanted; by default all that there are.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is malformed, it lacks an edge or a candidate, or it has a cost that is none.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "costs.json")
        >>> table = CostTable("latency", {"edge": {"linear": 0.5, "skip": 0.0}}, 1.0)
        >>> write_costs(path, {"latency": Measurement(table)})
        >>> read_costs(path)["latency"].table == table
        True
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict) or "costs" not in content:
            table = CostTable.read(content, space)
            return {table.kind: Measurement(table)}
        entries = content["costs"]
        if not isinstance(entries, dict) or not entries:
            raise ValueError("it has no costs")
        return {name: _measurement(entry, space) for name, entry in entries.items()}
    except ValueError as error:
        raise ValueError(
            f"{path} has no costs for this network: {error}; name another file, or move it away and measure them anew"
        ) from None


def read_table(path: Path, space: SearchSpace, name: str | None = None) -> CostTable:
    """One of the tables in a file.

    Args:
        path: The file.
        space: The edges and candidates whose costs are wanted.
        name: The name of the cost; ``None`` for a file that has one alone.

    Raises:
        ValueError: As :func:`read_costs` raises it; or the file has no such cost, or several ones and none is named.
    """
    found = read_costs(path, space)
    if name is None and len(found) > 1:
        first = plain(next(iter(found)))
        raise ValueError(f"{path} has the costs {listed(found)}: say which, as in cost={first} cost_file={path}")
    if name is not None and name not in found:
        raise ValueError(f"{path} has no costs of cost={plain(name)}: it has {listed(found)}")
    return found[next(iter(found)) if name is None else name].table


def write_costs(path: Path, found: Mapping[str, Measurement]) -> None:
    """Write a file of costs, which is whole at any moment.

    Args:
        path: The file.
        found: The costs by their names. One that a search measured is written as it always was, if it is alone.
    """
    alone = [each for each in found.values() if not each.measured] if len(found) == 1 else []
    entries = {name: {**each.table.content(), "measured": dict(each.measured)} for name, each in found.items()}
    write_json(path, alone[0].table.content() if alone else {"costs": entries})


def keep_measured(path: Path, table: CostTable) -> None:
    """Write what a search has measured, and keep what ``advnas cost measure`` has added to the file meanwhile.

    Args:
        path: The file. One that is broken or of another network is replaced.
        table: What the search has measured.
    """
    kept: dict[str, Measurement] = {}
    with turn_in(path.parent, LOCK):
        with suppress(OSError, ValueError):
            found = read_costs(path)
            kept = {name: each for name, each in found.items() if each.measured and each.table.has_edges_of(table)}
        write_costs(path, {table.kind: Measurement(table), **kept})


def _measurement(entry: Any, space: SearchSpace | None) -> Measurement:
    table = CostTable.read(entry, space)
    measured = entry.get("measured", {})
    if not isinstance(measured, dict):
        raise ValueError("what it says about the measurement is no mapping")
    return Measurement(table, measured)
