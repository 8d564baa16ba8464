"""The search space: searchable edges in a network, a draw of them, and the choice that a search ends with."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode

Network = TypeVar("Network", bound=nn.Module)
Inactive = Literal["none", "ones", "outputs"]
RunOthers = Callable[[Sequence[Tensor]], Iterator[tuple[int, list[Tensor]]]]


@dataclass(frozen=True)
class Architecture:
    """One draw: which candidates run, and with which gates.

    Attributes:
        weights: the gates a of Eq. (1), ``[E, J]`` without a graph.
        paths: for every edge the candidates that run, as host integers: a forward pass never asks the device.
        choice: the active candidate of every edge when the gates are one-hot, else ``None``.
        relaxed: gates with a graph to θ, ``[E, J]``, for strategies that differentiate through the draw.
        inactive: of one-hot gates, the gradient of those of the candidates that did not run: ``"none"``; ``"ones"``,
            Σ ∂L/∂y, as if their outputs were ones; or ``"outputs"``, ⟨∂L/∂y, O_j(x)⟩, for which they run without a
            graph, one at a time, when ∂L/∂y is there.
    """

    weights: Tensor
    paths: tuple[tuple[int, ...], ...]
    choice: tuple[int, ...] | None = None
    relaxed: Tensor | None = None
    inactive: Inactive = "none"


class _OneHotGates(torch.autograd.Function):
    """What one candidate returned, under a gate of one; in the backward pass, the credit of the gates.

    So there is no product, whose backward would pass over the memory twice more.

    ``forward(gates, route, others, count, *outputs, *arguments)``: the gates ``[J]``, or the active one, a scalar; what
    the edge does; what runs the other candidates on the ``arguments``, if they are to run; how many of the tensors are
    outputs.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, route: _Route, others: RunOthers | None, count: int, *tensors: Tensor) -> Any:
        ctx.route, ctx.others, ctx.count = route, others, count
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.one = gates.dim() == 0
        ctx.zeros = partial(torch.zeros, gates.shape, dtype=gates.dtype, device=gates.device)
        ctx.autocast = nullcontext
        kind = gates.device.type
        if others is not None and torch.amp.is_autocast_available(kind):
            enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
            # What is cast without a graph must not be found by a pass that needs one: hence without the cache.
            ctx.autocast = partial(torch.autocast, kind, dtype, enabled, cache_enabled=False)
        return tuple(output.clone() for output in tensors[:count])  # no views, so that an operation in place may follow

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # type: ignore[override]
        tensors = ctx.saved_tensors  # once: checkpointing makes them anew
        outputs, arguments = tensors[: ctx.count], tensors[ctx.count :]
        if all(grad is None for grad in grads):  # what followed has not used it
            return (None,) * (4 + len(tensors))
        credit = _inner(grads, outputs)
        if ctx.one:
            return credit, None, None, None, *grads
        (active,) = ctx.route.paths
        credits = list(ctx.zeros().unbind())  # of a padded row, too
        if ctx.route.inactive == "ones":
            ones = reduce(torch.add, [_sum(grad) for grad in grads if grad is not None])
            credits = [ones] * len(credits)
        if ctx.others is not None:
            with torch.no_grad(), ctx.autocast():
                for index, others in ctx.others(arguments):
                    credits[index] = _inner(grads, others)
                    del others  # before the next one is made
        credits[active] = credit
        return torch.stack(credits), None, None, None, *grads, *(None for _ in arguments)


def _inner(grads: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> Tensor:
    """Σ ⟨∂L/∂y, y⟩ over the tensors of an output, scalar."""
    credits = [_product(grad, output) for grad, output in zip(grads, outputs, strict=True) if grad is not None]
    return reduce(torch.add, credits)


def _product(grad: Tensor, output: Tensor) -> Tensor:
    """Re⟨∂L/∂y, y⟩, scalar."""
    if torch.promote_types(grad.dtype, torch.float32) != grad.dtype:
        return _sum(grad * output.conj())
    if _is_channels_last(output):  # as they lie in memory
        grad, output = grad.permute(0, 2, 3, 1), output.permute(0, 2, 3, 1)
    return torch.vdot(output.reshape(-1), grad.reshape(-1)).real  # one pass, without a tensor of products


def _is_channels_last(output: Tensor) -> bool:
    return output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last)


def _sum(values: Tensor) -> Tensor:
    """The real part of a sum in single precision at least: a half could overflow."""
    return values.sum(dtype=torch.promote_types(values.dtype, torch.float32)).real


@dataclass
class _Route:
    """What one edge does in one forward pass."""

    paths: tuple[int, ...]
    gates: Tensor | None  # [J]; or the active one's, a scalar; or None, where one runs and nobody asks for its gate
    unit: bool  # one candidate, gate one
    inactive: Inactive
    loaded: _Loaded

    def mix(self, outputs: list[Tensor]) -> Tensor:
        """Σ_j a_j O_j over the candidates that ran."""
        assert self.gates is not None
        gates = self.gates
        if len(self.paths) < len(gates):
            gates = torch.stack([gates[path] for path in self.paths])  # a list as an index would wait for the device
        images = _is_channels_last(outputs[0])
        if images:  # stacked as they lie in memory, so that what follows finds their format again
            outputs = [output.permute(0, 2, 3, 1) for output in outputs]
        stacked = torch.stack(outputs)  # [paths, ...]
        mixed = (gates.to(stacked.dtype) @ stacked.reshape(len(stacked), outputs[0].numel())).view_as(outputs[0])
        return mixed.permute(0, 3, 1, 2) if images else mixed


class _Loaded:
    """The weights of offloaded candidates that are on the device, while an architecture is bound: each copied once."""

    def __init__(self, ops: Sequence[MixedOp]) -> None:
        self._ops = ops
        self._weights: dict[tuple[int, int], dict[nn.Parameter, Tensor]] = {}

    def of(self, op: MixedOp, index: int) -> dict[nn.Parameter, Tensor]:
        """The weights of a candidate."""
        if not self._weights:
            # The first edge that runs sends for the weights of all, which are then on their way ahead of their use.
            self._weights = {
                (id(each), path): each.load(path)
                for each in self._ops
                if each._edge.route is not None
                for path in each._edge.route.paths
            }
        found = self._weights.get((id(op), index))
        return op.load(index) if found is None else found  # one that runs for its credit alone is not kept


@dataclass
class _Edge:
    """The one place where every MixedOp of a name finds its route."""

    route: _Route | None = None


class MixedOp(nn.Module):
    """An edge of the search space, Eq. (1): y = Σ_j a_j O_j(x) over named candidate operations.

    All MixedOps of one name share their gates: the cells of a stack, the steps of a recurrent network.

    Candidates take what the edge is called with, and return a tensor, or a nested tuple, list or dict of tensors,
    alike for all of them: inputs of equal shapes give outputs of equal shapes. All floating-point tensors that a
    candidate returns share its one gate. Everything else passes through and must be equal for all candidates that run;
    tensors inside other objects get no gate.

    Args:
        name: the edge's name in the search space and in the genotype.
        candidates: candidate operations by name. One that cuts the edge, or stands for that, declares itself with a
            true attribute ``is_zero_op``. Activations in them no longer work in place: ``inplace`` is switched off.

    Attributes:
        names: the candidates' names, in order.

    Raises:
        ValueError: no name, no candidates, a candidate's name that holds a dot or is one of ``nn.ModuleDict``'s own, or
            a candidate that is no module or itself contains a MixedOp.

    Example:
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> edge.names
        ('linear', 'skip')
    """

    def __init__(self, name: str, candidates: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not isinstance(name, str) or not name:
            raise ValueError(f"MixedOp {name!r} needs a name: a text that a genotype can hold")
        check_candidates(f"MixedOp {name!r}", candidates)
        self.name: str = name
        self.names: tuple[str, ...] = tuple(candidates)
        self.candidates = nn.ModuleDict(candidates)
        self._edge = _Edge()
        self.register_buffer("_place", None, persistent=False)  # of offloaded candidates: empty, on the op's device
        self._place: Tensor | None
        self._last: tuple[Any, Any, int] = (None, None, 0)  # form of an input, form of the output, whose output it was
        # The candidates see one input, and other edges may see it too: whoever overwrote it would change it for them.
        for module in self.candidates.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]

    @property
    def zero_ops(self) -> tuple[bool, ...]:
        """Which candidates declare themselves zero operations."""
        return tuple(bool(getattr(module, "is_zero_op", False)) for module in self.candidates.values())

    @property
    def is_offloaded(self) -> bool:
        """Whether the candidates' parameters stay in host memory, wherever the network is moved."""
        return self._place is not None

    def offload(self, on: bool = True) -> None:
        """Keep the candidates' parameters in host memory, pinned where the network is on a GPU.

        A forward pass on a device copies those of the candidates that it runs there, and a backward pass brings their
        gradients back. Buffers, such as running statistics, move with the network. A candidate must not recompute its
        own activations in the backward pass: recompute the whole edge.

        Args:
            on: with false, let them move with the network again, from the next time on.
        """
        if on != self.is_offloaded:
            self._place = torch.empty(0) if on else None

    def load(self, index: int) -> dict[nn.Parameter, Tensor]:
        """Copies of an offloaded candidate's parameters on the network's device, with a graph to the parameters."""
        assert self._place is not None
        weights = self.candidates[self.names[index]].parameters()
        with torch.inference_mode(False), torch.enable_grad():  # whoever comes first, others may need the graph
            return {weight: weight.to(self._place.device, non_blocking=True) for weight in weights}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MixedOp:
        """Move or convert; parameters of offloaded candidates come back to host memory, one by one."""
        if self._place is None:
            super()._apply(fn, recurse)
            return self
        pinned = fn(self._place).is_cuda
        stay = {id(each) for weight in self.candidates.parameters() for each in (weight, weight.grad)}

        def stays(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if id(tensor) not in stay:
                return moved
            return moved.cpu().pin_memory() if pinned else moved.cpu()

        super()._apply(stays, recurse)
        return self

    def _run(self, route: _Route, index: int, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        candidate = self.candidates[self.names[index]]
        if self._place is None or self._place.device.type == "cpu":
            return candidate(*inputs, **kwargs)
        weights = route.loaded.of(self, index)
        places = [
            (module._parameters, name, weight)
            for module in candidate.modules()
            for name, weight in module._parameters.items()
            if weight is not None
        ]
        # torch.func.functional_call would leave its own tensors in a module that occurs twice in the candidate.
        for parameters, name, weight in places:
            parameters[name] = weights[weight]  # type: ignore[assignment]
        try:
            return candidate(*inputs, **kwargs)
        finally:
            for parameters, name, weight in places:
                parameters[name] = weight

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the bound candidates on the inputs and mix their outputs, tensor by tensor.

        Raises:
            RuntimeError: no architecture is bound, because the network was called outside a strategy.
            ValueError: candidates whose outputs differ in structure or shape, or in what is not mixed.
        """
        route = self._edge.route
        if route is None:
            raise RuntimeError(
                f"MixedOp {self.name!r} has no architecture: call the network through its search strategy, or take"
                " a plain network with genotype.apply(model)"
            )
        outputs = [self._run(route, index, inputs, kwargs) for index in route.paths]
        self._compare(route.paths, outputs, (inputs, kwargs) if kwargs else inputs)
        if route.gates is None:
            return outputs[0]
        if route.unit:
            return self._gate(route, outputs[0], inputs, kwargs)
        return self._mix(route.paths, outputs, route.mix)

    def _gate(self, route: _Route, output: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An output under a gate of one, which can be differentiated."""
        outputs = list(_floating(output))
        if not outputs:
            return output
        arguments: list[Any] = []
        form: Any = None
        if route.inactive == "outputs":
            arguments, form = tree_flatten((inputs, kwargs))
        places = [place for place, argument in enumerate(arguments) if isinstance(argument, Tensor)]
        tensors = [arguments[place].detach() for place in places]
        for place in places:
            arguments[place] = None  # only the graph holds it, until it has been used

        def run_others(tensors: Sequence[Tensor]) -> Iterator[tuple[int, list[Tensor]]]:
            given = list(arguments)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor
            inputs, kwargs = tree_unflatten(given, form)
            for index in range(len(self.names)):
                if index not in route.paths:
                    output = self._run(route, index, inputs, kwargs)
                    self._compare((index,), [output], (inputs, kwargs) if kwargs else inputs)
                    yield index, list(_floating(output))
                    del output

        others = run_others if route.inactive == "outputs" else None
        gated = iter(_OneHotGates.apply(route.gates, route, others, len(outputs), *outputs, *tensors))
        return self._mix(route.paths, [output], lambda _: next(gated))

    def _compare(self, paths: tuple[int, ...], outputs: list[Any], inputs: Any) -> None:
        """Refuse an output unlike that of the candidate that ran before it on alike inputs."""
        given = (self.training, _form(inputs, _told))
        for index, output in zip(paths, outputs, strict=True):
            form = _form(output)
            last_given, last_form, last = self._last
            if form == last_form and given == last_given:
                continue  # nothing new to remember
            if isinstance(form, str):
                raise ValueError(
                    f"candidate {self.names[index]!r} of edge {self.name!r} returns a {form}: return a tensor, or a"
                    " tuple, list or dict of tensors"
                )
            if last != index and given == last_given:
                raise ValueError(
                    f"candidates of edge {self.name!r} differ in their outputs: {self.names[last]!r} returns"
                    f" {last_form} and {self.names[index]!r} returns {form}; make them return equal shapes"
                )
            self._last = given, form, index

    def _mix(self, paths: tuple[int, ...], outputs: list[Any], mix: Callable[[list[Tensor]], Tensor]) -> Any:
        first = outputs[0]
        if _is_floating(first):
            return mix(outputs)
        if isinstance(first, list | tuple):
            items = [self._mix(paths, list(column), mix) for column in zip(*outputs, strict=True)]
            return first._make(items) if hasattr(first, "_make") else type(first)(items)
        if isinstance(first, MutableMapping):
            mixed = copy.copy(first)  # of its own type
            for key in first:
                mixed[key] = self._mix(paths, [output[key] for output in outputs], mix)
            return mixed
        for index, other in zip(paths, outputs, strict=True):
            if not (other is first or (torch.equal(other, first) if isinstance(first, Tensor) else other == first)):
                what = "different integers" if isinstance(first, Tensor) else f"{first!r} and {other!r}"
                raise ValueError(
                    f"candidates {self.names[paths[0]]!r} and {self.names[index]!r} of edge {self.name!r} return"
                    f" {what}: only floating-point tensors are mixed, make all else equal"
                )
        return first

    def extra_repr(self) -> str:
        """The name, for ``print(model)``."""
        return repr(self.name)


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
        for module in model.modules():
            if not isinstance(module, MixedOp):
                continue
            known = first.setdefault(module.name, module)
            if (known.names, known.zero_ops) != (module.names, module.zero_ops):
                raise ValueError(
                    f"two MixedOps are called {module.name!r} but differ: {_describe(known)} and {_describe(module)};"
                    " give them different names, or the same candidates in the same order"
                )
            module._edge = known._edge
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
        self._edges: list[_Edge] = [op._edge for op in first.values()]
        self._offloaded = [op for op in model.modules() if isinstance(op, MixedOp) and op.is_offloaded]

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
        return self._edges[0].route is not None

    @contextmanager
    def bind(self, architecture: Architecture, gates: Tensor | None = None) -> Iterator[None]:
        """Let every MixedOp of the model run ``architecture``.

        Keep the context open over the backward pass too: activation checkpointing runs the network again there.

        Args:
            architecture: what to run.
            gates: ``[E, J]``, the gates to differentiate; without them the network is run for its weights alone.
        """
        rows = (architecture.weights if gates is None else gates).unbind(0)
        actives = rows
        if gates is not None and architecture.choice is not None and architecture.inactive == "none":
            # One-hot gates: a product picks the active ones, without sending their indices to the device.
            actives = (architecture.weights * gates).sum(-1).unbind(0)
        before = [edge.route for edge in self._edges]
        loaded = _Loaded(self._offloaded)
        for index, (edge, paths) in enumerate(zip(self._edges, architecture.paths, strict=True)):
            unit = architecture.choice is not None and paths == (architecture.choice[index],)
            own = None if unit and gates is None else actives[index] if unit else rows[index]
            edge.route = _Route(paths, own, unit, architecture.inactive, loaded)
        try:
            yield
        except (RuntimeError, TypeError) as error:
            # Such as two shapes that do not fit: before a second candidate has run, it may be any one's.
            if architecture.choice is not None:
                error.add_note(f"The architecture was {dict(self.genotype(architecture.choice))}.")
            raise
        finally:
            for edge, route in zip(self._edges, before, strict=True):
                edge.route = route

    def one_hot(self, choice: Sequence[int], *, like: Tensor | None = None) -> Architecture:
        """The discrete architecture that runs candidate ``choice[e]`` on edge e, with gates on ``like``'s device.

        Example:
            >>> space = SearchSpace(MixedOp("a", {"x": nn.Identity(), "y": nn.ReLU()}))
            >>> space.one_hot([1]).weights
            tensor([[0., 1.]])
        """
        weights = torch.zeros(self.mask.shape).scatter_(1, torch.tensor(choice).view(-1, 1), 1.0)  # [E, J]
        paths = tuple((index,) for index in choice)
        return Architecture(weights if like is None else weights.to(like), paths, choice=tuple(choice))

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
        _check(genotype, dict(zip(self.edges, self.candidates, strict=True)))
        return tuple(row.index(genotype[edge]) for edge, row in zip(self.edges, self.candidates, strict=True))


@dataclass(frozen=True, eq=False)
class Genotype(Mapping[str, str]):
    """The discrete result of a search: one candidate's name for each edge. Hashable, and JSON both ways.

    Args:
        edges: candidate by edge.

    Example:
        >>> genotype = Genotype({"edge": "skip"})
        >>> genotype["edge"], Genotype.from_json(genotype.to_json()) == genotype
        ('skip', True)
        >>> net = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}))
        >>> genotype.apply(net)
        Sequential(
          (0): Identity()
        )
    """

    edges: Mapping[str, str]
    _pairs: tuple[tuple[str, str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.edges, Mapping):
            raise ValueError(f"a genotype maps edge names to candidate names, not {self.edges!r}")
        for edge, name in self.edges.items():
            if not isinstance(edge, str) or not isinstance(name, str):
                raise ValueError(f"a genotype maps edge names to candidate names, not {edge!r} to {name!r}")
        object.__setattr__(self, "edges", dict(self.edges))
        object.__setattr__(self, "_pairs", tuple(sorted(self.edges.items())))

    def __getitem__(self, edge: str) -> str:
        return self.edges[edge]

    def __iter__(self) -> Iterator[str]:
        return iter(self.edges)

    def __len__(self) -> int:
        return len(self.edges)

    def __hash__(self) -> int:
        return hash(self._pairs)

    def to_json(self) -> str:
        """``{edge: candidate, …}``."""
        return json.dumps(self.edges)

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Read ``{edge: candidate, …}``.

        Raises:
            ValueError: not a JSON object of strings.
        """
        try:
            edges = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a genotype: {error}") from None
        if not isinstance(edges, dict):
            raise ValueError(f"a genotype is a JSON object {{edge: candidate}}, not {text!r}")
        return cls(edges)

    @classmethod
    def from_nasbench201(cls, text: str) -> Genotype:
        """Read NAS-Bench-201's form: node by node, the operation on each edge ``i->j`` with ``~i``.

        Any number of nodes will do; the names of the operations are checked where the genotype meets a network.

        Raises:
            ValueError: a malformed part, which is named.

        Example:
            >>> dict(Genotype.from_nasbench201("|skip_connect~0|+|none~0|nor_conv_3x3~1|"))
            {'0->1': 'skip_connect', '0->2': 'none', '1->2': 'nor_conv_3x3'}
        """
        edges: dict[str, str] = {}
        for target, node in enumerate(text.strip().split("+"), start=1):
            tokens = node.removeprefix("|").removesuffix("|").split("|")
            if node != f"|{'|'.join(tokens)}|" or len(tokens) != target:
                raise _malformed(text, node, f"node {target} has {target} operation(s), between bars: '|op~0|…|'")
            for source, token in enumerate(tokens):
                name, _, end = token.rpartition("~")
                if not name.isidentifier() or end != str(source):
                    raise _malformed(text, token, f"edge {source}->{target} is written 'operation~{source}'")
                edges[f"{source}->{target}"] = name
        return cls(edges)

    def to_nasbench201(self) -> str:
        """The inverse of :meth:`from_nasbench201`.

        Raises:
            ValueError: the edges are not those ``i->j``, 0 ≤ i < j, of a cell.
        """
        nodes = [
            [f"{self.get(f'{source}->{target}', '')}~{source}" for source in range(target)]
            for target in range(1, len(self) + 1)
            if f"0->{target}" in self
        ]
        text = "+".join(f"|{'|'.join(tokens)}|" for tokens in nodes)
        try:
            complete = Genotype.from_nasbench201(text) == self
        except ValueError:
            complete = False
        if not complete:
            raise ValueError(f"the edges {', '.join(self)} are not those of a cell: 0->1, 0->2, 1->2, …")
        return text

    @classmethod
    def read(cls, source: str | Path, which: str | None = None) -> Genotype:
        """Read a genotype as a user would write it down: a NAS-Bench-201 cell, JSON, or the path of a file.

        Args:
            source: ``|op~0|+…|``, ``{"edge": "candidate", …}``, or a path.
            which: of a run's file, see :meth:`load`.

        Raises:
            ValueError: it is malformed, or the file is.

        Example:
            >>> Genotype.read("|none~0|") == Genotype.read('{"0->1": "none"}')
            True
        """
        text = str(source).strip()
        if text.startswith(("|", "{")):
            if which is not None:
                raise ValueError(f"{text} is one genotype, so which={which!r} has nothing to choose: leave it out")
            return cls.from_nasbench201(text) if text.startswith("|") else cls.from_json(text)
        return cls.load(source, which)

    @classmethod
    def load(cls, path: str | Path, which: str | None = None) -> Genotype:
        """Read a run's ``genotype.json``, or a file that holds one genotype alone.

        Args:
            path: the file.
            which: ``"argmax"`` or ``"process_best"``; without it the one the run selected.

        Raises:
            ValueError: the file is missing or is no genotype, or the run has none of that kind.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"no genotype file at {path}: give the path of a run's genotype.json")
        try:
            content = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a genotype file: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a genotype file: it holds no JSON object")
        if "selected" not in content:
            if which is not None:
                raise ValueError(
                    f"{path} holds one genotype alone, so which={which!r} has nothing to choose: leave it out"
                )
            return cls(content)
        which = content["selected"] if which is None else which
        if which not in ("argmax", "process_best"):
            raise ValueError(f"which={which!r} is not a kind of genotype: use argmax or process_best")
        if content.get(which) is None:
            raise ValueError(f"{path} has no {which} genotype: choose the other kind with which=")
        return cls(content[which])

    def apply(self, model: Network) -> Network:
        """A copy of ``model`` in which every MixedOp is replaced by a copy of its chosen candidate.

        The copy keeps the chosen candidates' weights, and is plain: it holds no MixedOp.

        Raises:
            ValueError: the model has no edge, or one that is missing here; or an edge or candidate here is not the
                model's.
        """
        mixed = [module for module in model.modules() if isinstance(module, MixedOp)]
        if not mixed:
            raise ValueError(f"{type(model).__name__} has no MixedOp: give the network that was searched")
        _check(self, {op.name: op.names for op in mixed})
        memo: dict[int, Any] = {}
        for op in mixed:  # deepcopy then finds each MixedOp "already copied", and never copies the other candidates
            chosen = copy.deepcopy(op.candidates[self[op.name]], memo)
            memo[id(op)] = chosen if op._place is None else chosen.to(op._place.device)
        plain = copy.deepcopy(model, memo)
        for module in plain.modules():
            if hasattr(module, "_metric_attributes"):  # a LightningModule's cache of its metrics, by their identities
                module._metric_attributes = None  # type: ignore[assignment]
        return plain


class Probabilities(dict[str, dict[str, float]]):
    """How probable each edge's candidates are, edge by edge; a table when printed, the most probable ones first.

    Example:
        >>> print(Probabilities({"input->1": {"skip": 0.25, "linear": 0.75}, "1->2": {"skip": 1.0}}))
        input->1  linear 0.750  skip 0.250
        1->2      skip 1.000
    """

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(
            f"{edge:<{width}}  "
            + "  ".join(f"{name} {p:.3f}" for name, p in sorted(row.items(), key=lambda item: -item[1]))
            for edge, row in self.items()
        )


def count_parameters(model: nn.Module) -> int:
    """How many parameters a network has: by its own ``count_parameters()`` where it defines one, else all of them."""
    own = getattr(model, "count_parameters", None)
    return own() if callable(own) else sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, *inputs: Any) -> int:
    """Multiply-accumulates of the convolutions and matrix products in one forward pass, as torch counts them.

    Args:
        model: a plain network, such as ``genotype.apply(model)`` gives.
        inputs: what it is called with.

    Example:
        >>> count_macs(nn.Linear(3, 4), torch.zeros(2, 3))
        24
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return int(counter.get_total_flops()) // 2


def check_candidates(owner: str, candidates: Any) -> None:
    """Refuse what cannot be the candidates of a MixedOp.

    Args:
        owner: whose candidates they are, for the message.
        candidates: should be modules by name.

    Raises:
        ValueError: none, a bad name, or a candidate that is no module or contains a MixedOp.

    Example:
        >>> check_candidates("edge 'a'", {"skip": None})
        Traceback (most recent call last):
        ValueError: candidate 'skip' of edge 'a' is None: give a module, such as nn.Identity()
    """
    if not isinstance(candidates, Mapping | nn.ModuleDict) or not candidates:
        raise ValueError(f"{owner} has no candidates: give it at least one module by name, not {candidates!r}")
    taken = nn.ModuleDict()
    for name, module in candidates.items():
        if not isinstance(name, str) or not name or "." in name or hasattr(taken, name):
            raise ValueError(
                f"{owner} has a candidate called {name!r}: use a text without dots that is no attribute of"
                " nn.ModuleDict"
            )
        if not isinstance(module, nn.Module):
            raise ValueError(f"candidate {name!r} of {owner} is {module!r}: give a module, such as nn.Identity()")
        for inner in module.modules():
            if isinstance(inner, MixedOp):
                raise ValueError(
                    f"MixedOp {inner.name!r} lies inside candidate {name!r} of {owner}: nested choices are not"
                    " supported; put both choices at the same level"
                )


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _floating(value: Any) -> Iterator[Tensor]:
    """What of an output has a gate, in the order in which outputs are mixed."""
    if _is_floating(value):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _floating(item)
    elif isinstance(value, MutableMapping):
        for key in value:
            yield from _floating(value[key])


def _form(value: Any, leaf: Callable[[Any], Any] = lambda value: type(value).__name__) -> Any:
    """The shapes in a value, in the containers that they came in: read off without asking the device."""
    if isinstance(value, Tensor):
        return value.shape if _is_floating(value) else (value.dtype, value.shape)
    if isinstance(value, tuple):
        return tuple([_form(item, leaf) for item in value])
    if isinstance(value, list):
        return [_form(item, leaf) for item in value]
    if isinstance(value, MutableMapping):
        return {key: _form(item, leaf) for key, item in value.items()}
    return leaf(value)


def _told(value: Any) -> Any:
    # A flag may change what a candidate returns. So may what an object holds: no two are known to be alike.
    return value if value is None or isinstance(value, int | float | str) else object()


def _malformed(text: str, part: str, rule: str) -> ValueError:
    return ValueError(f"{text!r} is no NAS-Bench-201 cell because of {part!r}: {rule}")


def _describe(op: MixedOp) -> str:
    marks = [" (zero operation)" if zero else "" for zero in op.zero_ops]
    return "{" + ", ".join(name + mark for name, mark in zip(op.names, marks, strict=True)) + "}"


def _check(genotype: Genotype, candidates: Mapping[str, Sequence[str]]) -> None:
    for edge, names in candidates.items():
        if edge not in genotype:
            raise ValueError(f"the genotype has no edge {edge!r}: it needs {', '.join(candidates)}")
        if genotype[edge] not in names:
            raise ValueError(f"edge {edge!r} has no candidate {genotype[edge]!r}: it has {', '.join(names)}")
    for edge in genotype:
        if edge not in candidates:
            raise ValueError(f"the network has no edge {edge!r} of the genotype: it has {', '.join(candidates)}")
