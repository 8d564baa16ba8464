"""MixedOp, an edge of the search space in a user's network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advnas_lightning.space.attributes import PartOfChoice, read, write
from advnas_lightning.space.copying import copy_hooks
from advnas_lightning.space.gates import EdgePlan, EdgeState, comparable, floating_tensors, structure
from advnas_lightning.space.passes import EdgePass
from advnas_lightning.space.tensors import change_counter, counted

CHOSEN = "the chosen candidate of each edge"  # a key of deepcopy's memo


class MixedOp(nn.Module):
    """An edge of the search space, Eq. (1): y = Σ_j a_j O_j(x) over named candidate operations.

    All MixedOps of one name share their gates, such as those of equal cells in a stack.

    Candidates take the arguments of the edge. They return a tensor, or a nested tuple, list or dict of tensors. For
    inputs of equal shapes, all candidates must return the same structure and shapes. All floating-point tensors that a
    candidate returns share its one gate. Everything else is passed through and must be equal for all candidates that
    run. Tensors inside other objects get no gate.

    What an edge returns lies in memory of its own, so that what follows may change it in place: where a candidate
    returns its input, as ``nn.Identity`` does, the edge returns a copy. A found network has the candidate itself and
    copies nothing. Where it changes what an identity has returned and then uses what the identity was given, it would
    compute something else. A search refuses such a network: write ``y = y + 1`` instead of ``y += 1``.

    Code that reads an attribute of a module, such as ``in_features``, can read it of an edge. It gets the plain value
    that all candidates have which the bound architecture runs. Where no architecture is bound, it gets that of the
    module that ``make_searchable`` found there, or, if that is no candidate, the value that all candidates have.
    Nothing can be computed with the weights and methods of a candidate this way, since the choice would not count; a
    forward pass can read a weight's ``dtype``, ``device`` and ``shape``. A plain value that is set, is set in each
    candidate that has it.

    Args:
        name: The edge's name in the search space and in the genotype.
        candidates: The candidate operations by name. One that cuts the edge, or stands for that, declares itself by a
            true attribute ``is_zero_op``. The candidates' activations no longer work in place: ``inplace`` is switched
            off.

    Attributes:
        names: The candidates' names, in order.
        edge_state: The holder of what this edge runs. All MixedOps of one name share it.
        original: The name of the candidate that stood here before ``make_searchable``, if there is one.

    Raises:
        ValueError: There is no name or no candidate; a candidate's name contains a dot or is an attribute of
            ``nn.ModuleDict``; or a candidate is no module or contains a MixedOp.

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
        self.edge_state = EdgeState()
        self.original: str | None = None
        self.is_inner = False  # whether it lies in an edge, which then loads what is offloaded
        # An empty tensor that moves with the network, and so knows its device; only offloaded candidates need it.
        self.device_anchor: Tensor | None
        self.register_buffer("device_anchor", None, persistent=False)
        # The structure of the last input, that of its output, and the index of the candidate that gave it.
        self._last: tuple[Any, Any, int] = (None, None, 0)
        # All candidates and perhaps other edges get the same input, so no candidate may overwrite it.
        compute_out_of_place(self.candidates)

    def __getattr__(self, name: str) -> Any:
        """Read a plain value of the candidates.

        Raises:
            AttributeError: They have none, or it differs, or it would bypass the choice.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "_last" not in vars(self):  # asked by copy and pickle, or not constructed yet
                raise
        return read(self.name, self._asked(), name, running=self.edge_state.plan is not None)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the edge, or a plain value in all candidates that have it.

        Raises:
            AttributeError: A tensor or a module is set that candidates have.
        """
        own = "_last" not in vars(self) or name in vars(self) or hasattr(type(self), name)
        if (
            own
            or name in (*self._buffers, *self._modules)
            or not write(self.name, self.candidate_owners(), name, value)
        ):
            super().__setattr__(name, value)

    def __getitem__(self, key: Any) -> PartOfChoice:
        """The modules at one place in the candidates, of which plain values can be read."""
        return PartOfChoice(self.name, self._asked())[key]

    def _asked(self) -> dict[str, nn.Module]:
        """The candidates that stand for the edge where it is read as a module."""
        plan = self.edge_state.plan
        indices = range(len(self.names)) if self.original is None else (self.names.index(self.original),)
        return {self.names[index]: self.candidate_at(index) for index in (indices if plan is None else plan.paths)}

    def candidate_at(self, index: int) -> nn.Module:
        """The module that runs as a candidate."""
        return self.candidates[self.names[index]]

    def candidate_owners(self) -> Mapping[str, nn.Module]:
        """The modules that have the candidates' parameters and plain values."""
        return dict(self.candidates)

    def candidate_parameters(self) -> dict[nn.Parameter, None]:
        """The candidates' parameters, each once."""
        return dict.fromkeys(weight for owner in self.candidate_owners().values() for weight in owner.parameters())

    def __deepcopy__(self, memo: dict[Any, Any]) -> nn.Module:
        """A copy of the edge; for a found network, whose genotype is in the memo, a copy of the chosen candidate."""
        if CHOSEN in memo:
            chosen = copy.deepcopy(self.candidates[memo[CHOSEN][self.name]], memo)
            copy_hooks(self, chosen, memo)
            return chosen
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(vars(self), memo))
        return copied

    @property
    def zero_ops(self) -> tuple[bool, ...]:
        """Whether each candidate declares itself a zero operation."""
        return tuple(bool(getattr(module, "is_zero_op", False)) for module in self.candidates.values())

    @property
    def only_gates(self) -> bool:
        """Whether the network runs for the gradient of its gates alone, as in an architecture step.

        A network that computes gradients of its weights ahead of the backward pass can leave them out then.
        """
        return self.edge_state.plan is not None and self.edge_state.plan.only_gates

    @property
    def is_offloaded(self) -> bool:
        """Whether the candidates' parameters stay in host memory when the network is moved to a device."""
        return self.device_anchor is not None

    def offload(self, on: bool = True) -> None:
        """Keep the candidates' parameters in host memory, which is pinned where the network is on a GPU.

        A forward pass on a device copies there the parameters of the candidates that it runs, and a backward pass
        brings their gradients back. Buffers, such as running statistics, move with the network. A candidate must not
        recompute its own activations in the backward pass; recompute the whole edge instead.

        Args:
            on: Whether to keep them on the host. With false they move with the network again, from its next move on.
        """
        on = on and not self.is_inner
        if on != self.is_offloaded:
            self.device_anchor = torch.empty(0) if on else None

    def load(self, index: int) -> dict[nn.Parameter, Tensor]:
        """Copies of an offloaded candidate's parameters on the network's device, with a graph to the parameters."""
        assert self.device_anchor is not None
        with torch.inference_mode(False), torch.enable_grad():  # the first caller may need no graph, but later ones may
            device = self.device_anchor.device
            return {weight: part.to(device, non_blocking=True) for weight, part in self.parameter_slices(index).items()}

    def parameter_slices(self, index: int) -> dict[nn.Parameter, Tensor]:
        """What a candidate uses of each of its parameters, which is all of it but for elastic ones."""
        modules = self.candidate_at(index).modules()
        return {
            weight: getattr(module, name)
            for module in modules
            for name, weight in module.named_parameters(recurse=False)
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load a state; that of the network before its choices is one of the module that stood here."""
        if self.original is not None:
            rename_plain(state_dict, prefix, self, f"candidates.{self.original}.")
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MixedOp:
        """Move or convert the module; parameters of offloaded candidates return to host memory, one by one."""
        if self.device_anchor is None:
            super()._apply(fn, recurse)
            return self
        pinned = fn(self.device_anchor).is_cuda
        stay = {id(each) for weight in self.candidate_parameters() for each in (weight, weight.grad)}

        def stays(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if id(tensor) not in stay:
                return moved
            return moved.cpu().pin_memory() if pinned else moved.cpu()

        super()._apply(stays, recurse)
        return self

    def _run(self, plan: EdgePlan, index: int, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one candidate, and compare its output with those of others."""
        output = self._call(plan, index, inputs, kwargs)
        self._compare(index, output, (inputs, kwargs) if kwargs else inputs)
        return output

    def _call(self, plan: EdgePlan, index: int, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one candidate; an offloaded one runs with copies of its parameters on the device."""
        candidate = self.candidate_at(index)
        if self.device_anchor is None or self.device_anchor.device.type == "cpu":
            return candidate(*inputs, **kwargs)
        copies = plan.copies_of(self, index)
        places = [
            (vars(module), name, copies[weight])
            for module in candidate.modules()
            for name, weight in module.named_parameters(recurse=False, remove_duplicate=False)
        ]
        # An attribute hides the parameter of the same name. torch.func.functional_call would leave its own tensors in
        # a module that occurs twice in the candidate.
        for attributes, name, copied in places:
            attributes[name] = copied
        try:
            return candidate(*inputs, **kwargs)
        finally:
            for attributes, name, _ in places:
                del attributes[name]

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the bound candidates on the inputs and mix their outputs, tensor by tensor.

        Raises:
            RuntimeError: No architecture is bound, because the network was called outside a strategy.
            ValueError: The candidates' outputs differ in structure or shape, or in something that is not mixed.
        """
        plan = self.edge_state.plan
        if plan is None:
            raise RuntimeError(
                f"MixedOp {self.name!r} has no architecture: call the network through its search strategy, or take"
                " a plain network with genotype.apply(model); one that lies in a plain list, or is made after the"
                " strategy, as in a copy or in setup, is no part of it"
            )
        plan.has_run = True
        output = EdgePass(self.names, plan, partial(self._run, plan)).output(inputs, kwargs)
        if plan.returned is not None:
            plan.returned += [(change_counter(each), each._version) for each in counted(floating_tensors(output))]
        return output

    def _compare(self, index: int, output: Any, inputs: Any) -> None:
        """Refuse an output that differs in structure from that of another candidate on the same kind of inputs."""
        given, form = (self.training, structure(inputs, comparable)), structure(output)
        last_given, last_form, last = self._last
        if form == last_form and given == last_given:
            return  # there is nothing new to remember
        if isinstance(form, str):
            raise ValueError(
                f"candidate {self.names[index]!r} of edge {self.name!r} returns a {form}: return a tensor, or a tuple,"
                " list or dict of tensors"
            )
        if last != index and given == last_given:
            raise ValueError(
                f"candidates of edge {self.name!r} differ in their outputs: {self.names[last]!r} returns {last_form}"
                f" and {self.names[index]!r} returns {form}; make them return equal shapes"
            )
        self._last = given, form, index

    def extra_repr(self) -> str:
        """The name of the edge, for ``print(model)``."""
        return repr(self.name)


def mixed_ops(model: nn.Module) -> list[MixedOp]:
    """All MixedOps of a network, in the order of ``model.modules()``.

    Example:
        >>> [op.name for op in mixed_ops(nn.Sequential(MixedOp("a", {"skip": nn.Identity()}), nn.ReLU()))]
        ['a']
    """
    return [module for module in model.modules() if isinstance(module, MixedOp)]


def compute_out_of_place(module: nn.Module) -> None:
    """Switch off ``inplace`` in a module and in all modules in it.

    Args:
        module: The module.

    Example:
        >>> relu = nn.ReLU(inplace=True)
        >>> compute_out_of_place(nn.Sequential(relu))
        >>> relu.inplace
        False
    """
    for each in module.modules():
        if getattr(each, "inplace", False) is True:
            each.inplace = False  # type: ignore[assignment]


def rename_plain(state_dict: dict[str, Any], prefix: str, module: nn.Module, inner: str) -> None:
    """Give the state of a module that stood in a place before the names that it has in what stands there now.

    Args:
        state_dict: The state that is loaded, which is changed.
        prefix: What the names in the place begin with.
        module: The module that stands there now.
        inner: What the names inside it begin with.

    Example:
        >>> state = {"act.weight": 1, "head.weight": 2}
        >>> rename_plain(state, "act.", MixedOp("act", {"prelu": nn.PReLU()}), "candidates.prelu.")
        >>> state
        {'head.weight': 2, 'act.candidates.prelu.weight': 1}
    """
    for name in [name for name in state_dict if name.startswith(prefix)]:
        rest = name.removeprefix(prefix)
        if rest.partition(".")[0] not in dict(module.named_children()):
            state_dict[prefix + inner + rest] = state_dict.pop(name)


def check_candidates(owner: str, candidates: Any) -> None:
    """Refuse what cannot be the candidates of a MixedOp.

    Args:
        owner: The owner of the candidates, for the message.
        candidates: The value that should be modules by name.

    Raises:
        ValueError: There is no candidate, a name is invalid, or a candidate is no module or contains a MixedOp.

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
