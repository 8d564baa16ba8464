"""The cost of each candidate, measured in its place in the network, and the file of costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from advnas_lightning.cost.meters import METERS, UNITS, Meter
from advnas_lightning.objectives import Outcome
from advnas_lightning.space.mixed_op import mixed_ops
from advnas_lightning.space.search_space import SearchSpace


@dataclass(frozen=True)
class CostTable:
    """The costs by edge and candidate, and the cost of the network beside its edges.

    Attributes:
        kind: The kind of the cost, a key of ``UNITS``, or ``"own"``.
        edges: The costs c_ij by edge and candidate.
        fixed: The cost c_0 of the network beside its edges.

    Example:
        >>> CostTable("params", {"edge": {"linear": 72.0, "skip": 0.0}}, 10.0).content()["unit"]
        'parameters'
    """

    kind: str
    edges: dict[str, dict[str, float]]
    fixed: float

    def content(self) -> dict[str, Any]:
        """The content of a file of costs, as values for JSON."""
        return {"cost": self.kind, "unit": UNITS.get(self.kind, ""), "fixed": self.fixed, "edges": self.edges}

    @classmethod
    def load(cls, path: Path, space: SearchSpace) -> CostTable:
        """Read the costs of a space's candidates from a file.

        Raises:
            ValueError: The file is malformed, or it lacks an edge or a candidate.
        """
        try:
            content = json.loads(path.read_text())
            rows = zip(space.edges, space.candidates, strict=True)
            edges = {edge: {name: float(content["edges"][edge][name]) for name in names} for edge, names in rows}
            return cls(str(content["cost"]), edges, float(content["fixed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} has no costs for this network ({error!r}): measure them anew, cost=macs"
            ) from None


def count_candidates(model: nn.Module, space: SearchSpace, table: Tensor) -> float:
    """Add the parameters of all candidates to a table ``[E, J]``; a shared parameter is counted where it comes first.

    Args:
        model: The network.
        space: The edges of the network.
        table: The table that receives the numbers. Those of edges that share a name add up.

    Returns:
        The number of parameters of the network beside its edges.

    Example:
        >>> import torch
        >>> from advnas_lightning import MixedOp
        >>> net = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}), nn.Linear(8, 2))
        >>> table = torch.zeros(1, 2)
        >>> count_candidates(net, SearchSpace(net), table), table
        (18.0, tensor([[72.,  0.]]))
    """
    own = {id(parameter): parameter.numel() for parameter in model.parameters()}
    for edge, index, candidate in _every_candidate(model, space):
        table[edge, index] += sum(own.pop(id(parameter), 0) for parameter in candidate.parameters())
    return float(sum(own.values()))


def meter_candidates(
    meter: str | Meter, model: nn.Module, space: SearchSpace, run: Callable[[], Outcome], table: Tensor
) -> float:
    """Measure every candidate in its place, on its inputs in the network, and add the cost to a table ``[E, J]``.

    Args:
        meter: A key of ``METERS``, or a function of a candidate and its inputs.
        model: The network.
        space: The edges of the network.
        run: A function that runs the network, including the loss, on one batch.
        table: The table that receives the costs. Those of edges that share a name add up.

    Returns:
        The cost of the network beside its edges; 0 for a user's function.

    Raises:
        ValueError: The result of a user's function is no number.

    Example:
        >>> import torch
        >>> from advnas_lightning import MixedOp
        >>> net = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}), nn.Linear(8, 2))
        >>> table = torch.zeros(1, 2)
        >>> run = lambda: Outcome(net(torch.zeros(4, 8)).sum(), size=4)
        >>> meter_candidates("macs", net, SearchSpace(net), run, table)
        16.0
        >>> table
        tensor([[64.,  0.]])
    """
    measure = meter if callable(meter) else METERS[meter]
    network = _Network(model, run)
    fixed = 0.0
    for index in range(table.shape[1]):
        choice = [min(index, len(row) - 1) for row in space.candidates]
        with space.bind(space.one_hot(choice, like=table)):
            terms = network().size if meter == "macs" else 1
            spent = _meter_pass(measure, network, space)
            for edge, candidate, value in spent:
                if candidate == index:  # an edge with fewer candidates repeats its last one in the later passes
                    table[edge, candidate] += value / terms
            if index == 0 and not callable(meter):
                beside = measure(network) - sum(value for _, _, value in spent)
                fixed = max(beside, 0.0) / terms  # the timings of the parts may exceed the whole
    return fixed


class _Network(nn.Module):
    """A forward pass of the whole network, including the loss, that a meter can call like a candidate."""

    def __init__(self, model: nn.Module, run: Callable[[], Outcome]) -> None:
        super().__init__()
        self.model = model
        self._run = run

    def forward(self) -> Outcome:
        return self._run()


def _meter_pass(meter: Meter, network: _Network, space: SearchSpace) -> list[tuple[int, int, float]]:
    """Measure each candidate that runs in one pass, and return its edge, its index and its cost."""
    spent: list[tuple[int, int, float]] = []
    is_metering = False

    def hook(edge: int, index: int, candidate: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal is_metering
        if is_metering:
            return
        is_metering = True
        value = meter(candidate, *inputs, **kwargs)
        is_metering = False
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"the cost of candidate {space.candidates[edge][index]!r} is {value!r}: return a number")
        spent.append((edge, index, value))

    handles = [
        candidate.register_forward_pre_hook(partial(hook, edge, index), with_kwargs=True)
        for edge, index, candidate in _every_candidate(network.model, space)
    ]
    try:
        network()
    finally:
        for handle in handles:
            handle.remove()
    return spent


def _every_candidate(model: nn.Module, space: SearchSpace) -> Iterator[tuple[int, int, nn.Module]]:
    """Yield every candidate with the number of its edge and its index."""
    for op in mixed_ops(model):
        for index, candidate in enumerate(op.candidates.values()):
            yield space.edges.index(op.name), index, candidate


def rows_of(table: Tensor, candidates: Sequence[Sequence[str]]) -> list[list[float]]:
    """A table ``[E, J]`` as lists, without the padding of edges that have fewer candidates.

    Example:
        >>> import torch
        >>> rows_of(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), [("a", "b"), ("c",)])
        [[1.0, 2.0], [3.0]]
    """
    return [row[: len(names)] for row, names in zip(table.tolist(), candidates, strict=True)]
