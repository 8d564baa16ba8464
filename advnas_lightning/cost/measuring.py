"""Measures the cost of each candidate, in its place in the network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from advnas_lightning.cost.elastic import count, is_elastic, measure_sizes
from advnas_lightning.cost.meters import METERS, UNITS, Meter
from advnas_lightning.cost.table import CostTable, check_cost_of
from advnas_lightning.objectives import Outcome
from advnas_lightning.space.mixed_op import MixedOp, mixed_ops
from advnas_lightning.space.search_space import SearchSpace


class Processes(Protocol):
    """The processes of a run, which measuring needs to share its results.

    Example:
        >>> from advnas_lightning.engine.environment import Ranks
        >>> alone: Processes = Ranks(lambda: None)
        >>> alone.broadcast(torch.tensor(1.0))
        tensor(1.)
    """

    def broadcast(self, value: Tensor) -> Tensor:
        """Give all processes the value of the first one."""


class NetworkRunner(Protocol):
    """The part of a search's evaluator that measuring needs.

    Example:
        >>> from advnas_lightning import Fixed, MixedOp
        >>> edge = MixedOp("edge", {"relu": nn.ReLU(), "tanh": nn.Tanh()})
        >>> runner: NetworkRunner = Fixed(edge, genotype={"edge": "relu"}).evaluator
        >>> runner.space.edges
        ('edge',)
    """

    space: SearchSpace

    @property
    def ranks(self) -> Processes:
        """The processes that share the measurements."""

    def run(self, batch: Any) -> Outcome:
        """Compute the loss of the bound network on a batch."""

    def no_trace(self) -> AbstractContextManager[None]:
        """A context after which the network is as it was before."""


def measure(kind: str | Meter, model: nn.Module, evaluator: NetworkRunner, batch: Any) -> CostTable:
    """Measure the cost of every candidate; all processes have the costs of the first one.

    Args:
        kind: A key of ``UNITS``, or a function of a candidate and its inputs.
        model: The network.
        evaluator: The evaluator that runs the network.
        batch: A batch of an architecture step, on the network's device.

    Raises:
        ValueError: As :func:`count_candidates` and :func:`meter_candidates` raise it; or the loss takes a gradient.

    Example:
        >>> from advnas_lightning import AdvantageNAS
        >>> net = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}), nn.Linear(8, 2))
        >>> search = AdvantageNAS(net, architecture_optimizer=torch.optim.Adam)
        >>> measure("params", net, search.evaluator, None).edges
        {'edge': {'linear': 72.0, 'skip': 0.0}}
    """
    if kind == "params":
        found = count_candidates(model, evaluator.space)
    else:
        try:
            with torch.random.fork_rng(), evaluator.no_trace(), torch.no_grad():
                found = meter_candidates(kind, model, evaluator.space, partial(evaluator.run, batch))
        except RuntimeError as error:
            if not re.search("requires?[ _]grad", str(error)):
                raise
            raise ValueError(
                f"cost={name_of(kind)} is measured without gradients, and the loss takes one itself: let it leave that"
                " part out where torch.is_grad_enabled() is false, or use cost=params"
            ) from error
    return found.of_first(evaluator.ranks.broadcast)  # each process has timings of its own


def measure_costs(
    kinds: Sequence[str | Meter], model: nn.Module, evaluator: NetworkRunner, batch: Any
) -> dict[str, CostTable]:
    """Measure several costs of every candidate, by name.

    Args:
        kinds: Keys of ``UNITS``, and functions of a candidate and its inputs, each once.
        model: The network.
        evaluator: The evaluator that runs the network, such as the attribute ``evaluator`` of a search.
        batch: A batch of an architecture step, on the network's device.

    Raises:
        ValueError: A kind is unknown or given twice, or cannot be measured in this network.

    Example:
        >>> from advnas_lightning import AdvantageNAS
        >>> from advnas_lightning.objectives import Regression
        >>> net = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}), nn.Linear(8, 2))
        >>> search = AdvantageNAS(net, architecture_optimizer=torch.optim.Adam, objective=Regression())
        >>> batch = torch.zeros(4, 8), torch.zeros(4, 2)
        >>> tables = measure_costs(["params", "macs"], net, search.evaluator, batch)
        >>> {name: table.edges["edge"] for name, table in tables.items()}
        {'params': {'linear': 72.0, 'skip': 0.0}, 'macs': {'linear': 64.0, 'skip': 0.0}}
    """
    if isinstance(kinds, str) or not isinstance(kinds, Sequence):
        raise ValueError(f"costs={kinds!r} must be a list, such as [{kinds if isinstance(kinds, str) else 'params'!r}]")
    names = [name_of(kind) for kind in kinds]
    for name, kind in zip(names, kinds, strict=True):
        if not callable(kind) and kind not in UNITS:
            raise ValueError(f"the cost {kind!r} is unknown: use {', '.join(UNITS)}, or a function")
        if names.count(name) > 1:
            raise ValueError(f"the cost {name} is given twice: give each one once")
    return {name: measure(kind, model, evaluator, batch) for name, kind in zip(names, kinds, strict=True)}


def name_of(kind: str | Meter) -> str:
    """The name of a cost: its kind, or the dotted path of a user's function.

    Example:
        >>> name_of("macs"), name_of(count_candidates)
        ('macs', 'advnas_lightning.cost.measuring.count_candidates')
    """
    if isinstance(kind, str):
        return kind
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', type(kind).__name__)}"


def count_candidates(model: nn.Module, space: SearchSpace) -> CostTable:
    """Count the parameters of all candidates, so that the cost of each architecture is its number of parameters.

    A parameter that several candidates of one edge use counts for each of them, since one of them is chosen. One that
    is also used beside the edges counts there alone, and so does one of several edges that is there in any case,
    because it belongs to all candidates of one of them. Edges that share a name choose alike, and are one edge here.

    Args:
        model: The network.
        space: The edges of the network.

    Raises:
        ValueError: Different edges share a parameter that is there in some architectures only, so that what the
            candidate of one costs depends on the other; or a parameter has no shape yet.

    Example:
        >>> shared = nn.Linear(8, 8)
        >>> edge = MixedOp("edge", {"linear": shared, "both": nn.Sequential(shared, nn.Linear(8, 8)), "no": nn.ReLU()})
        >>> net = nn.Sequential(edge, nn.Linear(8, 2))
        >>> table = count_candidates(net, SearchSpace(net))
        >>> table.edges, table.fixed
        ({'edge': {'linear': 72.0, 'both': 144.0, 'no': 0.0}}, 18.0)
    """
    if is_elastic(model):
        return measure_sizes("params", model, space, partial(count, model, space))
    sizes: dict[int, int] = {}
    users: dict[int, dict[int, set[int]]] = {}  # by parameter and edge: the candidates that use it
    for edge, index, candidate in _every_candidate(model, space):
        for parameter in candidate.parameters():
            if is_lazy(parameter):
                name = space.candidates[edge][index]
                raise ValueError(
                    f"candidate {name!r} of edge {space.edges[edge]!r} has parameters without a shape: run all"
                    " candidates once before their parameters are counted"
                )
            sizes[id(parameter)] = parameter.numel()
            users.setdefault(id(parameter), {}).setdefault(edge, set()).add(index)
    beside = {id(parameter): parameter.numel() for parameter in _beside_the_edges(model)}
    table = _Rows(space)
    for key, edges in users.items():
        always = any(len(indices) == len(space.candidates[edge]) for edge, indices in edges.items())
        if key in beside or (always and len(edges) > 1):
            beside[key] = sizes[key]
            continue
        if len(edges) > 1:
            places = " and ".join(
                f"edge {space.edges[edge]!r} (candidate {space.candidates[edge][min(indices)]!r})"
                for edge, indices in list(edges.items())[:2]
            )
            raise ValueError(
                f"cost=params: {places} share parameters, so what one costs depends on the other: give them one name,"
                " give each its own copy, or use cost=macs"
            )
        ((edge, indices),) = edges.items()
        for index in indices:
            table.add(edge, index, sizes[key])
    return table.filled("params", float(sum(beside.values())))


def meter_candidates(meter: str | Meter, model: nn.Module, space: SearchSpace, run: Callable[[], Outcome]) -> CostTable:
    """Measure every candidate in its place, on its inputs in the network. Each call of it counts.

    Args:
        meter: A key of ``METERS``, or a function of a candidate and its inputs. With a function, the network beside its
            edges costs nothing.
        model: The network.
        space: The edges of the network.
        run: A function that runs the network, including the loss, on one batch.

    Raises:
        ValueError: The result of a user's function is no number, or a number that is negative or not finite; or no
            candidate runs.

    Example:
        >>> import torch
        >>> net = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}), nn.Linear(8, 2))
        >>> run = lambda: Outcome(net(torch.zeros(4, 8)).sum(), size=4)
        >>> table = meter_candidates("macs", net, SearchSpace(net), run)
        >>> table.edges, table.fixed
        ({'edge': {'linear': 64.0, 'skip': 0.0}}, 16.0)
    """
    measure = meter if callable(meter) else METERS[meter]
    network = _Network(model, run)
    if is_elastic(model):
        if callable(meter):
            raise ValueError(
                f"the cost {name_of(meter)} is that of one candidate, and elastic sizes are measured in whole networks:"
                f" use {', '.join(UNITS)}"
            )
        return measure_sizes(meter, model, space, partial(meter_choice, meter, model, space, run))
    table, fixed = _Rows(space), 0.0
    for index in range(max(map(len, space.candidates))):
        choice = [min(index, len(row) - 1) for row in space.candidates]
        with space.bind(space.one_hot(choice)):
            terms = network().size if meter == "macs" else 1
            spent = _meter_pass(measure, network, space, choice)
            if not spent:
                raise ValueError(
                    "no candidate could be measured in the network: a compiled network hides them, so compile the"
                    " candidates in its place, or use cost=params"
                )
            for edge, value in spent:
                if choice[edge] == index:  # an edge with fewer candidates repeats its last one in the later passes
                    table.add(edge, index, value / terms)
            if index == 0 and not callable(meter):
                beside = measure(network) - sum(value for _, value in spent)
                fixed = max(beside, 0.0) / terms  # the timings of the parts may exceed the whole
    return table.filled("own" if callable(meter) else meter, fixed)


def meter_choice(
    kind: str, model: nn.Module, space: SearchSpace, run: Callable[[], Outcome], choice: Sequence[int]
) -> float:
    """The cost of the whole network of a choice.

    Args:
        kind: A key of ``METERS``.
        model: The network.
        space: The edges of the network.
        run: A function that runs the network, including the loss, on one batch.
        choice: The index of the candidate of each edge.

    Example:
        >>> net = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}), nn.Linear(8, 2))
        >>> meter_choice("macs", net, SearchSpace(net), lambda: Outcome(net(torch.zeros(4, 8)).sum(), size=4), [0])
        80.0
    """
    with space.bind(space.one_hot(choice)):
        return measure_whole(kind, model, run)


def measure_whole(kind: str, network: nn.Module, run: Callable[[], Outcome]) -> float:
    """The cost of a whole network without a choice, to compare with the sum over its candidates.

    Args:
        kind: A key of ``UNITS``.
        network: A plain network, such as the result of ``genotype.apply(model)``.
        run: A function that runs it, including the loss, on one batch.

    Example:
        >>> net = nn.Linear(8, 2)
        >>> measure_whole("macs", net, lambda: Outcome(net(torch.zeros(4, 8)).sum(), size=4))
        16.0
    """
    if kind == "params":
        return float(sum(parameter.numel() for parameter in network.parameters()))
    with torch.random.fork_rng(), torch.no_grad():
        terms = run().size if kind == "macs" else 1
        return METERS[kind](_Network(network, run)) / terms


class _Rows:
    """A table that is being filled."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._costs = [[0.0] * len(row) for row in space.candidates]

    def add(self, edge: int, index: int, cost: float) -> None:
        self._costs[edge][index] += cost

    def filled(self, kind: str, fixed: float) -> CostTable:
        rows = zip(self._space.edges, self._space.candidates, self._costs, strict=True)
        return CostTable(kind, {edge: dict(zip(names, costs, strict=True)) for edge, names, costs in rows}, fixed)


class _Network(nn.Module):
    """A forward pass of the whole network, including the loss, that a meter can call like a candidate."""

    def __init__(self, model: nn.Module, run: Callable[[], Outcome]) -> None:
        super().__init__()
        self.model = model
        self._run = run

    def forward(self) -> Outcome:
        return self._run()


def _meter_pass(meter: Meter, network: _Network, space: SearchSpace, choice: Sequence[int]) -> list[tuple[int, float]]:
    """Measure the chosen candidates in one pass, and return the edge and the cost of each of their calls."""
    spent: list[tuple[int, float]] = []
    edge: int | None = None  # the one whose candidate is about to be called
    is_metering = False

    def enter(entered: int, op: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal edge
        if not is_metering:
            edge = entered

    def measure(candidate: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A candidate may be called elsewhere too: beside the edges, on another edge, or as a part of another one.
        nonlocal edge, is_metering
        if edge is None or is_metering:
            return
        entered, edge, is_metering = edge, None, True
        value = meter(candidate, *inputs, **kwargs)
        is_metering = False
        name = space.candidates[entered][choice[entered]]
        spent.append((entered, check_cost_of(space.edges[entered], name, value)))

    ops = mixed_ops(network.model)
    chosen = [op.candidates[op.names[choice[space.edges.index(op.name)]]] for op in ops]
    handles = [op.register_forward_pre_hook(partial(enter, space.edges.index(op.name))) for op in ops]
    # The first module that runs after an edge was entered is the chosen candidate itself.
    handles += [
        candidate.register_forward_pre_hook(measure, with_kwargs=True)
        for candidate in {id(candidate): candidate for candidate in chosen}.values()
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


def _beside_the_edges(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that stay in the network whatever is chosen, some of them several times."""
    seen, waiting = {id(model)}, [model]
    while waiting:
        module = waiting.pop()
        if not isinstance(module, MixedOp):
            yield from module.parameters(recurse=False)
            waiting += [child for child in module.children() if id(child) not in seen]
            seen |= {id(child) for child in module.children()}
