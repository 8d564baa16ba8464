"""The edges that are found in a network, and an architecture that is drawn from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advnas_lightning.sending import sent
from advnas_lightning.space.elastic.following import follow
from advnas_lightning.space.elastic.unfollowed import unfollowed
from advnas_lightning.space.fast_paths import switch_off_fast_paths
from advnas_lightning.space.gates import ActiveGates, EdgePlan, EdgeState, Inactive
from advnas_lightning.space.genotype import Genotype, check_genotype
from advnas_lightning.space.mixed_op import MixedOp, mixed_ops
from advnas_lightning.space.nesting import Nesting
from advnas_lightning.space.offload import DeviceCopies
from advnas_lightning.texts import listed

RAN = "The architecture was"  # the start of the note on an error in the network


@dataclass(frozen=True)
class Architecture:
    """One draw: the candidates that run, and their gates.

    Attributes:
        gates: The gates a of Eq. (1), ``[E, J]`` without a graph.
        paths: The candidates that run on every edge, as integers on the host, so that a forward pass never waits for
            the device.
        choice: The active candidate of every edge if the gates are one-hot, else ``None``.
        relaxed: Gates with a graph to θ, ``[E, J]``, for strategies that differentiate through the draw.
        inactive: The gradient of the gates of candidates that did not run, where the gates are one-hot. With ``"none"``
            there is none. With ``"ones"`` it is Σ ∂L/∂y, as if their outputs were ones. With ``"outputs"`` it is
            ⟨∂L/∂y, O_j(x)⟩: these candidates then run without a graph, one at a time, in the backward pass.

    Example:
        >>> Architecture(torch.tensor([[0.0, 1.0]]), paths=((1,),), choice=(1,)).inactive
        'none'
    """

    gates: Tensor
    paths: tuple[tuple[int, ...], ...]
    choice: tuple[int, ...] | None = None
    relaxed: Tensor | None = None
    inactive: Inactive = "none"


class SearchSpace:
    """The edges found in a model, in first-seen order.

    Args:
        model: The network, which contains at least one :class:`MixedOp`.

    Attributes:
        edges: The names of the E edges.
        candidates: The names of each edge's candidates. Rows may differ in length.
        mask: ``[E, J]`` bool, true where edge e has a candidate j.
        zero_ops: ``[E, J]`` bool, true where the candidate declares itself a zero operation.
        nesting: Which edges the network of an architecture leaves out, such as those in layers that do not run.

    Raises:
        ValueError: The model has no MixedOp, or none with more than one candidate, or two of one name whose candidates
            differ.

    Example:
        >>> net = nn.Sequential(MixedOp("a", {"x": nn.Identity(), "y": nn.ReLU()}), MixedOp("b", {"z": nn.Tanh()}))
        >>> space = SearchSpace(net)
        >>> space
        SearchSpace({'a': ('x', 'y'), 'b': ('z',)})
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
        follow(model, first)
        if not first:
            raise ValueError(
                f"{type(model).__name__} contains no MixedOp: wrap a choice in MixedOp(name, candidates), before the"
                " strategy gets the model, and so not in setup or configure_model"
            )
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
        switch_off_fast_paths(model)
        self._edges: list[EdgeState] = [op.edge_state for op in first.values()]
        self._offloaded = [op for op in ops if op.is_offloaded]
        self.nesting = Nesting(model, self.edges)
        self._outermost = {op.name for op in ops if not op.is_inner}

    def __repr__(self) -> str:
        return f"SearchSpace({dict(zip(self.edges, self.candidates, strict=True))})"

    def __len__(self) -> int:
        """The number E of edges."""
        return len(self.edges)

    @property
    def all_paths(self) -> tuple[tuple[int, ...], ...]:
        """The paths of a dense architecture, which are the indices of all candidates of every edge."""
        return tuple(tuple(range(len(row))) for row in self.candidates)

    @property
    def size(self) -> int:
        """The number of discrete architectures."""
        return math.prod(map(len, self.candidates))

    @property
    def is_bound(self) -> bool:
        """Whether an architecture is bound, so that the model can run."""
        return self._edges[0].plan is not None

    @property
    def idle(self) -> set[str]:
        """The edges with a choice that have not run since an architecture was bound.

        Those in the candidates of another edge are not among them, since that edge may leave them out.

        Example:
            >>> net = MixedOp("a", {"x": nn.Identity(), "y": nn.ReLU()})
            >>> space = SearchSpace(net)
            >>> with space.bind(space.one_hot([1])):
            ...     before, output, after = space.idle, net(torch.ones(1)), space.idle
            >>> before, after
            ({'a'}, set())
        """
        rows = zip(self.edges, self.candidates, self._edges, strict=True)
        idle = {edge for edge, row, own in rows if len(row) > 1 and own.plan is not None and not own.plan.has_run}
        return idle & self._outermost

    @property
    def changed_in_place(self) -> set[str]:
        """The observed edges whose output was changed in place by what follows, since an architecture was bound.

        Example:
            >>> space = SearchSpace(net := MixedOp("a", {"x": nn.Identity(), "y": nn.ReLU()}))
            >>> with space.bind(space.one_hot([0]), observed=["a"]):
            ...     _ = net(torch.ones(1)).add_(1)
            ...     space.changed_in_place
            {'a'}
        """
        plans = [own.plan for own in self._edges if own.plan is not None and own.plan.returned]
        return {plan.edge for plan in plans if any(each._version != count for each, count in plan.returned or ())}

    @property
    def passing(self) -> dict[str, tuple[int, ...]]:
        """Of each edge the candidates that have returned what lies in the memory of their input, by index.

        Example:
            >>> space = SearchSpace(net := MixedOp("a", {"x": nn.Flatten(), "y": nn.ReLU()}))
            >>> with space.bind(space.one_hot([0])):
            ...     _ = net(torch.ones(1, 1))
            >>> space.passing
            {'a': (0,)}
        """
        return {edge: tuple(sorted(own.passing)) for edge, own in zip(self.edges, self._edges, strict=True)}

    def refuse_left_out(self, choice: Sequence[int]) -> None:
        """Refuse that edges have run, since an architecture was bound, which its network leaves out.

        Args:
            choice: The candidate of each edge in that architecture.

        Raises:
            ValueError: One has run, since the network calls it other than by what stands around it.
        """
        for edge in self.nesting.left_out(choice):
            plan = self._edges[edge].plan
            if plan is not None and plan.has_run:
                raise ValueError(
                    f"edge {self.edges[edge]!r} has run, and {dict(self.genotype(choice))} leaves it out: let the"
                    " network call the stack in which it stands, and not its layers"
                )

    def running(self, architecture: Architecture) -> set[tuple[str, int]]:
        """The candidates that an architecture runs, in the forward or the backward pass: their edges and indices.

        Example:
            >>> space = SearchSpace(MixedOp("a", {"x": nn.Identity(), "y": nn.ReLU()}))
            >>> space.running(space.one_hot([1]))
            {('a', 1)}
        """
        paths = self.all_paths if architecture.inactive == "outputs" else architecture.paths
        return {(edge, index) for edge, row in zip(self.edges, paths, strict=True) for index in row}

    @contextmanager
    def bind(
        self,
        architecture: Architecture,
        gates: Tensor | None = None,
        *,
        only_gates: bool = False,
        copies_outputs: bool = True,
        bare: Collection[str] = (),
        observed: Collection[str] = (),
    ) -> Iterator[None]:
        """A context in which every MixedOp of the model runs ``architecture``.

        Keep it open during the backward pass too, since activation checkpointing runs the network again there.

        Args:
            architecture: The architecture to run.
            gates: The gates to differentiate, ``[E, J]``. Without them only the weights can be differentiated.
            only_gates: Whether nothing but the gates will be differentiated: see :attr:`MixedOp.only_gates`.
            copies_outputs: Whether outputs under gates that are differentiated are copied, so that what follows an edge
                may change its output in place.
            bare: The edges that return what their only candidate returns, also where that is their input.
            observed: The edges of which :attr:`changed_in_place` is to tell.

        Example:
            >>> net = MixedOp("edge", {"relu": nn.ReLU(), "skip": nn.Identity()})
            >>> space = SearchSpace(net)
            >>> with space.bind(space.one_hot([1])):
            ...     net(torch.tensor(-1.0))
            tensor(-1.)
        """
        choice, paths = architecture.choice, architecture.paths
        # An edge is a unit if one candidate runs, under a gate of one.
        units = [choice is not None and own == (choice[edge],) for edge, own in enumerate(paths)]
        rows: Sequence[Tensor | None] = (None,) * len(units)
        actives = rows  # the gates of units; without gates to differentiate, nobody asks for them
        if gates is not None and choice is not None and architecture.inactive == "none":
            # The gates are one-hot: a product picks the active ones without sending their indices to the device.
            actives = ActiveGates.apply(gates, architecture.gates).unbind(0)
        elif gates is not None:
            actives = gates.unbind(0)
        if not all(units):
            rows = (architecture.gates if gates is None else gates).unbind(0)
        before = [edge.plan for edge in self._edges]
        loaded = DeviceCopies(self._offloaded)
        for index, (edge, unit) in enumerate(zip(self._edges, units, strict=True)):
            own = actives[index] if unit else rows[index]
            name = self.edges[index]
            edge.plan = EdgePlan(
                name,
                paths[index],
                own,
                unit,
                architecture.inactive,
                loaded.of,
                only_gates,
                copies_outputs,
                is_bare=name in bare,
                returned=[] if name in observed else None,
                passing=edge.passing,
            )
        try:
            yield
        except Exception as error:
            # If two shapes do not fit, for instance, an edge knows the cause only after a second candidate has run.
            if not any(note.startswith(RAN) for note in getattr(error, "__notes__", ())):  # of a pass within this one
                ran = "a mixture" if architecture.choice is None else dict(self.genotype(architecture.choice))
                error.add_note(f"{RAN} {ran}.")
                if (advice := unfollowed(error)) is not None:
                    error.add_note(advice)
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
        gates = gates if like is None else sent(gates.to(like.dtype), like.device)
        return Architecture(gates, paths, choice=tuple(choice))

    def genotype(self, choice: Sequence[int]) -> Genotype:
        """Name the candidates of a choice, which is one candidate index for each edge."""
        return Genotype(
            {edge: row[index] for edge, row, index in zip(self.edges, self.candidates, choice, strict=True)}
        )

    def choice(self, genotype: Genotype) -> tuple[int, ...]:
        """The candidate indices of a genotype: the inverse of :meth:`genotype`.

        Raises:
            ValueError: An edge is missing or unknown, or it does not have the candidate.
        """
        check_genotype(genotype, dict(zip(self.edges, self.candidates, strict=True)))
        return tuple(row.index(genotype[edge]) for edge, row in zip(self.edges, self.candidates, strict=True))


def _describe(op: MixedOp) -> str:
    marks = [" (zero operation)" if zero else "" for zero in op.zero_ops]
    return "{" + listed(name + mark for name, mark in zip(op.names, marks, strict=True)) + "}"
