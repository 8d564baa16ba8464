"""The edges that are found in a network, and a draw of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advnas_lightning.space.gates import EdgePlan, EdgeState, Inactive
from advnas_lightning.space.genotype import Genotype, check_genotype
from advnas_lightning.space.mixed_op import MixedOp, mixed_ops
from advnas_lightning.space.offload import DeviceCopies


@dataclass(frozen=True)
class Architecture:
    """One draw: which candidates run, and with which gates.

    Attributes:
        gates: a of Eq. (1), ``[E, J]`` without a graph.
        paths: for every edge the candidates that run, as host integers: a forward pass never asks the device.
        choice: the active candidate of every edge when the gates are one-hot, else ``None``.
        relaxed: gates with a graph to θ, ``[E, J]``, for strategies that differentiate through the draw.
        inactive: of one-hot gates, the gradient of those of the candidates that did not run: ``"none"``; ``"ones"``,
            Σ ∂L/∂y, as if their outputs were ones; or ``"outputs"``, ⟨∂L/∂y, O_j(x)⟩, for which they run without a
            graph, one at a time, when ∂L/∂y is there.
    """

    gates: Tensor
    paths: tuple[tuple[int, ...], ...]
    choice: tuple[int, ...] | None = None
    relaxed: Tensor | None = None
    inactive: Inactive = "none"


class SearchSpace:
    """The edges found in a model, in first-seen order.

    Args:
        model: a network that contains at least one :class:`MixedOp`.

    Attributes:
        edges: the E edge names.
        candidates: their candidates' names; rows may differ in length.
        mask: ``[E, J]`` bool, true where edge e has a candidate j.
        zero_ops: ``[E, J]`` bool, true where the candidate declares itself a zero operation.

    Raises:
        ValueError: no MixedOp in the model, none with more than one candidate, or two of one name with different
            candidates.

    Example:
        >>> net = nn.Sequential(MixedOp("a", {"x": nn.Identity(), "y": nn.ReLU()}), MixedOp("b", {"z": nn.Tanh()}))
        >>> space = SearchSpace(net)
        >>> space.edges, space.size, space.mask.tolist()
        (('a', 'b'), 2, [[True, True], [True, False]])
    """

    def __init__(self, model: nn.Module) -> None:
        first: dict[str, MixedOp] = {}
        ops = mixed_ops(model)
        for op in ops:
            known = first.setdefault(op.name, op)
            if (known.names, known.zero_ops) != (op.names, op.zero_ops):
                raise ValueError(
                    f"two MixedOps are called {op.name!r} but differ: {_describe(known)} and {_describe(op)};"
                    " give them different names, or the same candidates in the same order"
                )
            op.edge_state = known.edge_state
        if not first:
            raise ValueError(f"{type(model).__name__} contains no MixedOp: wrap a choice in MixedOp(name, candidates)")
        self.edges: tuple[str, ...] = tuple(first)
        self.candidates: tuple[tuple[str, ...], ...] = tuple(op.names for op in first.values())
        width = max(map(len, self.candidates))
        if width == 1:
            raise ValueError(
                f"no edge of {type(model).__name__} has a second candidate, so there is nothing to search: give"
                f" {' or '.join(map(repr, first))} another one"
            )
        self.mask = torch.tensor([[j < len(row) for j in range(width)] for row in self.candidates])  # [E, J]
        zero_rows = [op.zero_ops + (False,) * (width - len(op.zero_ops)) for op in first.values()]
        self.zero_ops = torch.tensor(zero_rows)  # [E, J]
        self._edges: list[EdgeState] = [op.edge_state for op in first.values()]
        self._offloaded = [op for op in ops if op.is_offloaded]

    def __len__(self) -> int:
        """E, the number of edges."""
        return len(self.edges)

    @property
    def all_paths(self) -> tuple[tuple[int, ...], ...]:
        """Every candidate of every edge: the paths of a dense architecture."""
        return tuple(tuple(range(len(row))) for row in self.candidates)

    @property
    def size(self) -> int:
        """How many discrete architectures there are."""
        size = 1
        for row in self.candidates:
            size *= len(row)
        return size

    @property
    def is_bound(self) -> bool:
        """Whether the model has an architecture to run."""
        return self._edges[0].plan is not None

    @contextmanager
    def bind(self, architecture: Architecture, gates: Tensor | None = None) -> Iterator[None]:
        """Let every MixedOp of the model run ``architecture``.

        Keep the context open over the backward pass too: activation checkpointing runs the network again there.

        Args:
            architecture: what to run.
            gates: ``[E, J]``, the gates to differentiate; without them the network is run for its weights alone.
        """
        rows = (architecture.gates if gates is None else gates).unbind(0)
        actives = rows
        if gates is not None and architecture.choice is not None and architecture.inactive == "none":
            # One-hot gates: a product picks the active ones, without sending their indices to the device.
            actives = (architecture.gates * gates).sum(-1).unbind(0)
        before = [edge.plan for edge in self._edges]
        copies = DeviceCopies(self._offloaded)
        for index, (edge, paths) in enumerate(zip(self._edges, architecture.paths, strict=True)):
            unit = architecture.choice is not None and paths == (architecture.choice[index],)
            own = None if unit and gates is None else actives[index] if unit else rows[index]
            edge.plan = EdgePlan(paths, own, unit, architecture.inactive, copies.of)
        try:
            yield
        except (RuntimeError, TypeError) as error:
            # Such as two shapes that do not fit: before a second candidate has run, it may be any one's.
            if architecture.choice is not None:
                error.add_note(f"The architecture was {dict(self.genotype(architecture.choice))}.")
            raise
        finally:
            for edge, plan in zip(self._edges, before, strict=True):
                edge.plan = plan

    def one_hot(self, choice: Sequence[int], *, like: Tensor | None = None) -> Architecture:
        """The discrete architecture that runs candidate ``choice[e]`` on edge e, with gates on ``like``'s device.

        Example:
            >>> space = SearchSpace(MixedOp("a", {"x": nn.Identity(), "y": nn.ReLU()}))
            >>> space.one_hot([1]).gates
            tensor([[0., 1.]])
        """
        gates = torch.zeros(self.mask.shape).scatter_(1, torch.tensor(choice).view(-1, 1), 1.0)  # [E, J]
        paths = tuple((index,) for index in choice)
        return Architecture(gates if like is None else gates.to(like), paths, choice=tuple(choice))

    def genotype(self, choice: Sequence[int]) -> Genotype:
        """Candidate indices, one for each edge, by name."""
        return Genotype(
            {edge: row[index] for edge, row, index in zip(self.edges, self.candidates, choice, strict=True)}
        )

    def choice(self, genotype: Genotype) -> tuple[int, ...]:
        """The inverse of :meth:`genotype`.

        Raises:
            ValueError: an edge is missing, unknown, or names a candidate that it does not have.
        """
        check_genotype(genotype, dict(zip(self.edges, self.candidates, strict=True)))
        return tuple(row.index(genotype[edge]) for edge, row in zip(self.edges, self.candidates, strict=True))


def _describe(op: MixedOp) -> str:
    marks = [" (zero operation)" if zero else "" for zero in op.zero_ops]
    return "{" + ", ".join(name + mark for name, mark in zip(op.names, marks, strict=True)) + "}"
