"""How a network is called: its arguments, and which dimension of each is the batch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from advnas_lightning.texts import listed


@dataclass(frozen=True)
class Call:
    """The arguments of a network's forward pass.

    Attributes:
        arguments: The arguments by the names of the parameters of ``forward``, in order. They are tensors, nested
            tuples, lists and dicts of tensors, or values that do not change.
        positional: How many of them are given by their place; the others are given by their names.
        batch_dims: The dimension of each argument's tensors that is the batch; ``None`` for an argument without one.

    Example:
        >>> call = Call.of(nn.Linear(3, 2), torch.ones(4, 3))
        >>> call.size, call.resized(2).tensors["input"].shape, [each.shape for each in call.run(nn.Linear(3, 2))]
        (4, torch.Size([2, 3]), [torch.Size([4, 2])])
    """

    arguments: Mapping[str, Any]
    positional: int
    batch_dims: Mapping[str, int | None]

    @classmethod
    def of(
        cls,
        network: nn.Module,
        *args: Any,
        batch_dims: Mapping[str, int | None] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Call:
        """A call of a network.

        Args:
            network: The network.
            args: The arguments that are given by their place.
            batch_dims: The names of the arguments that are inputs, each with the dimension that is the batch; others,
                such as targets, are left out. By default it is the network's attribute ``batch_dims``. Without one all
                arguments are inputs, and the dimension is 0.
            kwargs: The arguments that are given by their names.

        Raises:
            ValueError: The arguments are not those of ``forward``; ``forward`` takes any number of them, as ``*args``;
                or ``batch_dims`` names one that there is not, or leaves out one that is needed.
        """
        try:
            signature = inspect.signature(network.forward)
            bound = signature.bind(*args, **(kwargs or {}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{type(network).__name__}.forward is not called like this: {error}") from None
        parameters = signature.parameters
        # An optional input that is left out is no input: None could not be told from a tensor later.
        given = {
            name: value
            for name, value in bound.arguments.items()
            if not (value is None and parameters[name].default is None)
        }
        dims = getattr(network, "batch_dims", None) if batch_dims is None else batch_dims
        if dims is not None:
            given = {name: value for name, value in given.items() if name in dims}
            needed = [name for name, each in parameters.items() if each.default is each.empty and name not in given]
            if needed:
                raise ValueError(
                    f"batch_dims does not name {needed[0]!r}, which {type(network).__name__}.forward needs"
                )
        positional: dict[str, Any] = {}
        named: dict[str, Any] = {}
        for place, (name, parameter) in enumerate(parameters.items()):
            if name not in given:
                continue
            value = given[name]
            if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                raise ValueError(
                    f"{type(network).__name__}.forward takes {parameter}, so its inputs have no names: write them as"
                    " parameters"
                )
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY or len(positional) < place:
                named[name] = value  # behind one that is left out
            else:
                positional[name] = value
        arguments = {**positional, **named}
        for name in batch_dims or ():
            if name not in arguments:
                raise ValueError(
                    f"batch_dims names {name!r}, which is no input: the inputs are {listed(bound.arguments)}"
                )
        return cls(arguments, len(positional), {name: 0 if dims is None else dims[name] for name in arguments})

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments that are given by their place."""
        return tuple(self.arguments.values())[: self.positional]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments that are given by their names."""
        return dict(list(self.arguments.items())[self.positional :])

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the call by name, in order. Those of a nested argument have a number behind its name."""
        found: dict[str, Tensor] = {}
        for name, value in self.arguments.items():
            own = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
            found |= (
                {name: own[0]} if isinstance(value, Tensor) else {f"{name}_{i}": each for i, each in enumerate(own)}
            )
        return found

    @property
    def has_batch(self) -> bool:
        """Whether there is a tensor with a batch."""
        return bool(self._sizes())

    @property
    def size(self) -> int:
        """The size of the batch.

        Raises:
            ValueError: There is no batch, or the arguments have batches of several sizes.
        """
        sizes = self._sizes()
        if len(set(sizes.values())) != 1:
            said = ", ".join(f"{name} {size}" for name, size in sizes.items()) or "there is no tensor"
            raise ValueError(
                f"the inputs have no batch size in common ({said}): say which dimension of each input is the batch, as"
                " in batch_dims={'tokens': 1}, with None for an input without one"
            )
        return next(iter(sizes.values()))

    def _sizes(self) -> dict[str, int]:
        sizes = {}
        for name, value in self.arguments.items():
            dim = self.batch_dims[name]
            for leaf in tree_leaves(value):
                if isinstance(leaf, Tensor) and dim is not None and leaf.dim() > dim:
                    sizes[name] = leaf.shape[dim]
        return sizes

    def resized(self, size: int) -> Call:
        """The call with a batch of another size, made of the same samples.

        Args:
            size: The number of samples.
        """
        places = torch.arange(size) % self.size

        def with_samples(leaf: Any, dim: int) -> Any:
            has_batch = isinstance(leaf, Tensor) and leaf.dim() > dim
            return leaf.index_select(dim, places.to(leaf.device)) if has_batch else leaf

        return self._mapped(lambda dim, leaf: leaf if dim is None else with_samples(leaf, dim))

    def with_tensors(self, tensors: Sequence[Tensor]) -> Call:
        """The call with other tensors.

        Args:
            tensors: The tensors, in the order of :attr:`tensors`.
        """
        others = iter(tensors)
        return self._mapped(lambda _, leaf: next(others) if isinstance(leaf, Tensor) else leaf)

    def detached(self) -> Call:
        """The call with tensors of its own, on the CPU."""
        return self._mapped(lambda _, leaf: leaf.detach().cpu().clone() if isinstance(leaf, Tensor) else leaf)

    def _mapped(self, change: Callable[[int | None, Any], Any]) -> Call:
        changed = {
            name: tree_map(lambda leaf, dim=self.batch_dims[name]: change(dim, leaf), value)
            for name, value in self.arguments.items()
        }
        return Call(changed, self.positional, self.batch_dims)

    def dynamic_shapes(self) -> dict[str, Any]:
        """Which dimensions may differ, as ``torch.export`` takes it."""
        batch = torch.export.Dim("batch")

        def shape(leaf: Any, dim: int | None) -> dict[int, Any] | None:
            if not isinstance(leaf, Tensor):
                return None
            return {dim: batch} if dim is not None and leaf.dim() > dim else {}

        return {
            name: tree_map(lambda leaf, dim=self.batch_dims[name]: shape(leaf, dim), value)
            for name, value in self.arguments.items()
        }

    def run(self, network: Callable[..., Any]) -> list[Tensor]:
        """The tensors that a network returns, in order.

        Args:
            network: The network, or what stands for it.

        Raises:
            ValueError: It returns something else, or no tensor.
        """
        leaves, _ = tree_flatten(network(*self.args, **self.kwargs))
        others = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor) and leaf is not None]
        tensors = [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]
        if others or not tensors:
            what = f"a {others[0]}" if others else "no tensor"
            raise ValueError(f"the network returns {what}: a file can return tensors, in tuples, lists and dicts")
        return tensors


def largest_difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference between two lists of tensors, in units of the largest value, or of 1 if that is smaller.

    Args:
        found: The tensors to judge.
        wanted: The tensors that are right.

    Example:
        >>> largest_difference([torch.tensor([1.0, 200.0])], [torch.tensor([1.0, 100.0])])
        1.0
    """
    if [each.shape for each in found] != [each.shape for each in wanted]:
        return float("inf")
    largest = [0.0]
    for one, other in zip(found, wanted, strict=True):
        if other.numel() > 0:
            scale = max(float(other.double().abs().max()), 1.0)
            largest.append(float((one.double() - other.double()).abs().max()) / scale)
    return math.nan if any(map(math.isnan, largest)) else max(largest)
