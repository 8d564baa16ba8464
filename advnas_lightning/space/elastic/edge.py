"""An edge whose candidates are slices of one module, and a module whose input follows such an edge."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from advnas_lightning.space.attributes import read
from advnas_lightning.space.copying import copy_hooks
from advnas_lightning.space.elastic.axes import Axis
from advnas_lightning.space.elastic.narrowing import cut, narrowed
from advnas_lightning.space.gates import EdgePlan, EdgeState
from advnas_lightning.space.mixed_op import CHOSEN, MixedOp, compute_out_of_place, rename_plain
from advnas_lightning.texts import listed


class Slice(nn.Module):
    """A candidate of an :class:`Elastic`: its module with one size. It has no parameters of its own.

    Args:
        axis: The axis.
        size: The size.

    Example:
        >>> import torch
        >>> Slice(Axis(), 2).of(nn.Linear(4, 8))(torch.ones(4)).shape
        torch.Size([2])
    """

    def __init__(self, axis: Axis, size: Any) -> None:
        super().__init__()
        self.axis, self.size = axis, size

    def of(self, module: nn.Module) -> Slice:
        """This slice of a module. It shares everything else with the slice that it is made of, such as its hooks.

        Args:
            module: The widest module, or an elastic module that has it.
        """
        bound = type(self).__new__(type(self))
        vars(bound).update(vars(self), _modules={"module": module}, training=module.training)
        return bound

    def __getattr__(self, name: str) -> Any:
        """The attribute that the module has with this size."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "module" not in vars(self).get("_modules", {}):
                raise
        with self.narrowed():
            return getattr(self.module, name)

    def __getitem__(self, key: Any) -> Any:
        """What the module has at a place with this size, such as a layer of a stack."""
        with self.narrowed():
            return self.module[key]  # type: ignore[index]

    def narrowed(self) -> AbstractContextManager[tuple[nn.Module, ...]]:
        """A context in which the module has this size; it gives the modules inside that are smaller too."""
        return with_size(innermost(self.module), self.axis, self.size)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the module with this size, on as much of the input as belongs to it."""
        module = innermost(self.module)
        full = self.axis.full(module) == self.size
        with nullcontext() if full else narrowed(module, self.axis.running(module, self.size)):
            return self.module(*inputs, **kwargs)

    def extra_repr(self) -> str:
        """The size, for ``print(model)``."""
        return f"{self.axis.name}={self.size}"


class Elastic(MixedOp):
    """An edge whose candidates are slices of one module; :func:`~advnas_lightning.elastic` makes it.

    Candidate j computes with the first entries of the parameters, as a module of its size does. Its output stands for
    the same with zeros up to the widest size, so that Eq. (1) holds. Where one candidate alone is drawn, nothing is
    padded: its narrow output is handed on. Where several are mixed, or those that did not run get a credit, outputs
    have the size of the widest one of them.

    Args:
        name: The edge's name.
        widest: The module; or one whose input follows, or that is elastic in another size.
        axis: The size that is elastic.
        sizes: The sizes by the names of the candidates.

    Attributes:
        widest: The module that has the parameters.
        axis: The size that is elastic.
        sizes: The sizes in the order of the candidates.

    Example:
        >>> edge = Elastic("ffn", nn.Linear(4, 8), Axis(), {"2": 2, "8": 8})
        >>> edge.names, [tuple(weight.shape) for weight in edge.parameters()]
        (('2', '8'), [(8, 4), (8,)])
    """

    def __init__(self, name: str, widest: nn.Module, axis: Axis, sizes: Mapping[str, Any]) -> None:
        super().__init__(name, {candidate: Slice(axis, size) for candidate, size in sizes.items()})
        self.axis, self.sizes = axis, tuple(sizes.values())
        self.widest = widest
        full = axis.full(innermost(widest))
        self.original = next((candidate for candidate, size in sizes.items() if size == full), None)
        compute_out_of_place(widest)
        for module in widest.modules():
            if isinstance(module, MixedOp):
                module.is_inner = True

    def candidate_at(self, index: int) -> Slice:
        """The slice that runs as a candidate."""
        found: Any = self.candidates[self.names[index]]
        part: Slice = found.of(self.widest)
        return part

    def candidate_owners(self) -> dict[str, nn.Module]:
        """The module that has the parameters and the plain values."""
        return {"widest": self.widest} if "widest" in self._modules else {}  # it is not there at first

    def parameter_slices(self, index: int) -> dict[nn.Parameter, Tensor]:
        """The slices of the parameters that a candidate uses."""
        with self.candidate_at(index).narrowed():
            return super().parameter_slices(index)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load a state, also that of the network before its sizes were elastic."""
        rename_plain(state_dict, prefix, self, "widest.")
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _run(self, plan: EdgePlan, index: int, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one candidate on its part of the input; pad its output where others are mixed with it."""
        axis, module = self.axis, innermost(self.widest)
        if axis.reads:
            inputs = self._part(plan, index, inputs)
        output = self._call(plan, index, inputs, kwargs)
        if axis.gives and plan.is_padded:
            output = axis.padded(module, output, self.sizes[widest(plan, self.sizes)])
        return output

    def _part(self, plan: EdgePlan, index: int, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs with the first one cut to the size that a candidate reads."""
        check_first(self.name, inputs)
        module, first = innermost(self.widest), inputs[0]
        dim, size = self.axis.dim(module), self.axis.read(module, self.sizes[index])
        runs = widest(plan, self.sizes)
        check_input(self.name, module, self.names[runs], first.shape[dim], self.axis.read(module, self.sizes[runs]))
        return inputs if first.shape[dim] == size else (first.narrow(dim, 0, size), *inputs[1:])

    def __deepcopy__(self, memo: dict[Any, Any]) -> nn.Module:
        """A copy of the edge; for a found network, whose genotype is in the memo, a module of the chosen size."""
        if CHOSEN not in memo:
            return super().__deepcopy__(memo)
        with self.candidate_at(self.names.index(memo[CHOSEN][self.name])).narrowed() as parts:
            chosen: nn.Module = cut(self.widest, memo, parts)
        copy_hooks(self, chosen, memo)
        return chosen


class Follower(nn.Module):
    """A module whose input has the size of an elastic edge; :func:`~advnas_lightning.elastic` makes it.

    It is no edge. Its parameters are cut to the size that the input has.

    Args:
        name: The name of the edge that gives the input its size.
        widest: The module that has the parameters.
        axis: The size of its input.
        sizes: The sizes by the names of that edge's candidates.

    Attributes:
        edge_state: The holder of what the edge runs.

    Example:
        >>> import torch
        >>> from advnas_lightning.space.elastic.axes import InFeatures
        >>> follower = Follower("ffn", nn.Linear(8, 4), InFeatures(), {"2": 2, "8": 8})
        >>> follower(torch.ones(2)).shape
        torch.Size([4])
        >>> follower(torch.ones(3))
        Traceback (most recent call last):
            ...
        ValueError: the input of a Linear that follows edge 'ffn' has size 3, which none of its candidates has: give \
what comes before it the sizes 2, 8
    """

    def __init__(self, name: str, widest: nn.Module, axis: Axis, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        self.name, self.axis = name, axis
        self.names, self.sizes = tuple(sizes), tuple(sizes.values())
        self.edge_state = EdgeState()
        self.widest = widest

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load a state, also that of the network before its sizes were elastic."""
        rename_plain(state_dict, prefix, self, "widest.")
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def __getattr__(self, name: str) -> Any:
        """Read a plain value of the module.

        Raises:
            AttributeError: It has none, or it is a weight.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "widest" not in vars(self).get("_modules", {}):
                raise
        plan = self.edge_state.plan
        if plan is None:
            return read(self.name, {"widest": self.widest}, name, running=False)
        with with_size(innermost(self.widest), self.axis, self.sizes[widest(plan, self.sizes)]):
            return read(self.name, {"widest": self.widest}, name)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the module with the size that the first input has.

        Raises:
            ValueError: What the edge runs has another size, or no candidate has this one.
        """
        module, plan = innermost(self.widest), self.edge_state.plan
        check_first(self.name, inputs)
        given, sizes = self.axis.given(module, inputs[0]), {self.axis.read(module, size): size for size in self.sizes}
        if given not in sizes:
            raise ValueError(
                f"the input of a {type(module).__name__} that follows edge {self.name!r} has size {given}, which none"
                f" of its candidates has: give what comes before it the sizes {listed(map(str, sizes))}"
            )
        if plan is not None:
            runs = widest(plan, self.sizes)
            check_input(self.name, module, self.names[runs], given, self.axis.read(module, self.sizes[runs]))
        with with_size(module, self.axis, sizes[given]):
            return self.widest(*inputs, **kwargs)

    def __deepcopy__(self, memo: dict[Any, Any]) -> nn.Module:
        """A copy; for a found network, whose genotype is in the memo, a module of the chosen size."""
        if CHOSEN not in memo:
            memo[id(self)] = copied = type(self).__new__(type(self))
            copied.__setstate__(copy.deepcopy(vars(self), memo))
            return copied
        size = self.sizes[self.names.index(memo[CHOSEN][self.name])]
        with with_size(innermost(self.widest), self.axis, size) as parts:
            chosen: nn.Module = cut(self.widest, memo, parts)
        copy_hooks(self, chosen, memo)
        return chosen

    def extra_repr(self) -> str:
        """The name of the edge, for ``print(model)``."""
        return repr(self.name)


def innermost(module: nn.Module) -> nn.Module:
    """The module that has the parameters.

    Args:
        module: It, or an elastic module around it.

    Example:
        >>> linear = nn.Linear(4, 8)
        >>> innermost(Elastic("ffn", linear, Axis(), {"8": 8})) is linear
        True
    """
    while isinstance(module, Elastic | Follower):
        module = module.widest
    return module


def with_size(module: nn.Module, axis: Axis, size: Any) -> AbstractContextManager[tuple[nn.Module, ...]]:
    """A context in which a module has a size; it gives the modules inside that are smaller too.

    Args:
        module: The module that has the parameters.
        axis: Which of its sizes.
        size: The size. With the module's own size it computes with its parameters themselves.

    Example:
        >>> with with_size(linear := nn.Linear(4, 8), Axis(), 2):
        ...     linear.weight.shape
        torch.Size([2, 4])
    """
    return nullcontext(()) if axis.full(module) == size else narrowed(module, axis.change(module, size))


def widest(plan: EdgePlan, sizes: tuple[Any, ...]) -> int:
    """The index of the candidate that has the size of an edge's output.

    Args:
        plan: What the edge runs.
        sizes: The sizes of its candidates.

    Example:
        >>> import torch
        >>> plan = EdgePlan("edge", (0, 2), torch.ones(3), unit=False, inactive="none", copies_of=lambda *_: {})
        >>> widest(plan, (8, 4, 2))
        0
    """
    paths = plan.paths if len(plan.paths) > 1 or not plan.is_padded else range(len(sizes))
    return max(paths, key=lambda index: sizes[index])


def check_first(edge: str, inputs: tuple[Any, ...]) -> None:
    """Refuse a call without a tensor from which the size can be read.

    Args:
        edge: The edge's name.
        inputs: The arguments of the call that have no name.

    Raises:
        ValueError: There is none, or the first one is no tensor.

    Example:
        >>> check_first("ffn", ())
        Traceback (most recent call last):
            ...
        ValueError: a module of edge 'ffn' reads its size off its first argument: give it a tensor there, and not by \
name
    """
    if not inputs or not isinstance(inputs[0], Tensor | PackedSequence):
        raise ValueError(
            f"a module of edge {edge!r} reads its size off its first argument: give it a tensor there, and not by name"
        )


def check_input(edge: str, module: nn.Module, candidate: str, given: int, expected: int) -> None:
    """Refuse an input that has another size than what its edge runs.

    Args:
        edge: The edge's name.
        module: The module that is given the input.
        candidate: The name of the widest candidate that runs.
        given: The size of the input.
        expected: The size that it must have.

    Raises:
        ValueError: They differ.

    Example:
        >>> check_input("ffn", nn.Linear(8, 4), "4", 8, 4)
        Traceback (most recent call last):
            ...
        ValueError: the input of a Linear of edge 'ffn' has size 8, but the edge runs '4' and so needs size 4: let \
what comes before it be elastic with the name 'ffn'
    """
    if given != expected:
        raise ValueError(
            f"the input of a {type(module).__name__} of edge {edge!r} has size {given}, but the edge runs {candidate!r}"
            f" and so needs size {expected}: let what comes before it be elastic with the name {edge!r}"
        )
