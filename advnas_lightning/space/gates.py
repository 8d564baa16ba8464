"""The gates of an edge: how outputs are mixed, and how gates of one get their credit in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advnas_lightning.functional import widened

Inactive = Literal["none", "ones", "outputs"]
RunOthers = Callable[[Sequence[Tensor]], Iterator[tuple[int, list[Tensor]]]]
CopiesOf = Callable[[Any, int], dict[nn.Parameter, Tensor]]  # the parameters of an offloaded candidate, on the device


@dataclass
class EdgePlan:
    """What one edge does in one forward pass.

    Attributes:
        edge: The edge's name.
        paths: The indices of the candidates that run.
        gates: The gates ``[J]``; or the active gate alone, a scalar; or ``None`` where one candidate runs and its gate
            is not differentiated.
        unit: Whether one candidate runs, under a gate of one.
        inactive: The gradient of the gates of candidates that did not run, see :class:`Architecture`.
        copies_of: A function that gives the parameters of an offloaded candidate on the device.
        only_gates: Whether the pass is differentiated by its gates alone, so that it needs no graph of the weights.
        copies_outputs: Whether an output under a gate of one is copied. A view takes less time and memory, but an
            in-place operation that follows is a ``RuntimeError``.
        is_bare: Whether an edge without a gate to differentiate returns the very output of its only candidate, also
            where that is its input.
        returned: What counts the changes in place of each tensor that the edge has returned, and how many there had
            been by then; ``None`` where nobody asks.
        passing: The candidates that are known to return what lies in the memory of their input, by index.
        has_run: Whether the edge has run since the plan was made.

    Example:
        >>> gates = torch.tensor([0.25, 0.75])
        >>> plan = EdgePlan("edge", (0, 1), gates, unit=False, inactive="none", copies_of=lambda *_: {})
        >>> plan.mix([torch.tensor([4.0]), torch.tensor([8.0])])
        tensor([7.])
    """

    edge: str
    paths: tuple[int, ...]
    gates: Tensor | None
    unit: bool
    inactive: Inactive
    copies_of: CopiesOf
    only_gates: bool = False
    copies_outputs: bool = True
    is_bare: bool = False
    returned: list[tuple[Tensor, int]] | None = None
    passing: set[int] = field(default_factory=set)
    has_run: bool = False

    @property
    def is_padded(self) -> bool:
        """Whether several outputs are compared: they are mixed, or candidates that did not run get a credit, too."""
        return len(self.paths) > 1 or (self.unit and self.gates is not None and self.inactive != "none")

    def mix(self, outputs: list[Tensor]) -> Tensor:
        """Σ_j a_j O_j over the candidates that ran, in the widest of their types.

        Halves are mixed in single precision: the sum of the products that is a gate's gradient can overflow in a half.
        """
        assert self.gates is not None
        gates = self.gates
        self.check_dense(outputs)
        if self.paths != tuple(range(len(gates))):
            gates = torch.stack([gates[path] for path in self.paths])  # indexing with a list would wait for the device
        images = is_channels_last(outputs[0])
        if images:  # they are stacked in the order of their memory, so that the result keeps the format
            outputs = [output.permute(0, 2, 3, 1) for output in outputs]
        dtypes = {output.dtype for output in outputs}
        dtype = reduce(torch.promote_types, dtypes)
        wide = torch.promote_types(dtype, torch.float32)
        if dtypes != {wide}:
            outputs = [output.to(wide) for output in outputs]
        stacked = torch.stack(outputs)  # [paths, ...]
        with without_autocast(stacked.device):  # which would round the product to a half
            mixed = gates.to(wide) @ stacked.reshape(len(stacked), outputs[0].numel())
        mixed = mixed.view_as(outputs[0])
        mixed = mixed if dtype == wide else mixed.to(dtype)
        return mixed.permute(0, 3, 1, 2) if images else mixed

    def check_dense(self, outputs: Sequence[Tensor]) -> None:
        """Refuse what has no product with a gate.

        Raises:
            ValueError: A tensor is sparse or nested.
        """
        if any(output.layout is not torch.strided or output.is_nested for output in outputs):
            raise ValueError(
                f"a candidate of edge {self.edge!r} returns a sparse or nested tensor, which can have no gate: return a"
                " dense one"
            )


@dataclass
class EdgeState:
    """Holds the current plan of an edge, and what its passes have shown. All MixedOps of one name share it.

    A copy has no plan, also one that is made while the network runs, since nothing would ever change it.

    Example:
        >>> EdgeState().plan is None  # no architecture is bound
        True
    """

    plan: EdgePlan | None = None
    passing: set[int] = field(default_factory=set)

    def __reduce__(self) -> tuple[type[EdgeState], tuple[()]]:
        return EdgeState, ()


class ActiveGates(torch.autograd.Function):
    """The sum of each row of gates times a one-hot: its active gate.

    PyTorch's own product would free the one-hot in the first backward pass, and a loss may have one of its own.

    Example:
        >>> gates = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
        >>> ActiveGates.apply(gates, gates.detach())[1].backward()
        >>> gates.grad
        tensor([[0., 0.],
                [1., 0.]])
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, one_hot: Tensor) -> Tensor:
        """Return the active gates, ``[E]``, of gates ``[E, J]``."""
        ctx.one_hot = one_hot
        return (one_hot * gates).sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """Return the gradient of the gates, and none of the one-hot."""
        return ctx.one_hot * grad.unsqueeze(-1), None


class OneHotGates(torch.autograd.Function):
    """Returns the outputs of the one candidate whose gate is one; its backward pass gives the credit of the gates.

    A product with the gate would do the same, but would read and write the memory three times more. Where the backward
    pass is to be differentiated itself (``create_graph=True``), it is that of the product.

    ``forward(gates, plan, others, count, *outputs, *arguments)`` takes

    * ``gates``: the gates ``[J]``, or the active gate alone, a scalar;
    * ``plan``: the plan of the edge;
    * ``others``: a function that runs the other candidates on the ``arguments``, or ``None`` where they do not run;
    * ``count``: the number of outputs among the tensors that follow.

    Example:
        >>> gates, output = torch.tensor([0.0, 1.0], requires_grad=True), torch.tensor([3.0])
        >>> plan = EdgePlan("edge", (1,), gates, unit=True, inactive="none", copies_of=lambda *_: {})
        >>> (mixed,) = OneHotGates.apply(gates, plan, None, 1, output)
        >>> torch.autograd.grad(2 * mixed.sum(), gates)
        (tensor([0., 6.]),)
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, plan: EdgePlan, others: RunOthers | None, count: int, *tensors: Tensor) -> Any:
        """Return views of the outputs. PyTorch refuses to change those in place."""
        ctx.plan, ctx.others, ctx.count = plan, others, count
        ctx.save_for_backward(gates, *tensors)
        ctx.set_materialize_grads(False)
        ctx.autocast = nullcontext
        kind = gates.device.type
        if others is not None and torch.amp.is_autocast_available(kind):
            enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
            # The cache is off, so that a pass that needs a graph does not find weights that were cast without one.
            ctx.autocast = partial(torch.autocast, kind, dtype, enabled, cache_enabled=False)
        return tuple(output.view_as(output) for output in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # type: ignore[override]
        """Return the credit of the gates, and the gradients of the outputs times a gate of one.

        Raises:
            RuntimeError: What a candidate was given or has returned was changed in place.
            ValueError: The pass is to be differentiated, and needs the outputs of candidates that did not run.
        """
        try:
            gates, *tensors = ctx.saved_tensors  # read once, since checkpointing recomputes them at every read
        except RuntimeError as error:
            if "inplace" not in str(error):
                raise
            raise RuntimeError(
                f"the input of edge {ctx.plan.edge!r} was modified by an inplace operation, and the backward pass needs"
                " it: write x = x + 1 instead of x += 1"
            ) from error
        outputs, arguments = tensors[: ctx.count], tensors[ctx.count :]
        if all(grad is None for grad in grads):  # the loss does not depend on the outputs
            return (None,) * (4 + len(tensors))
        credit, passed = _inner(grads, outputs), grads
        one, (active,) = gates.dim() == 0, ctx.plan.paths
        if torch.is_grad_enabled():  # this pass is to be differentiated
            if ctx.others is not None:
                raise ValueError(
                    f"edge {ctx.plan.edge!r} credits candidates that did not run, which is not possible where a loss is"
                    " made of gradients (create_graph=True): use AdvantageNAS or another strategy"
                )
            passed = tuple(_gated(grad, gates if one else gates[active]) for grad in grads)
        if one:
            return credit, None, None, None, *passed
        credits = list(torch.zeros_like(gates).unbind())  # one for each gate, including the padding
        if ctx.plan.inactive == "ones":
            ones = reduce(torch.add, [_sum(grad) for grad in grads if grad is not None])
            credits = [ones] * len(credits)
        if ctx.others is not None:
            with torch.no_grad(), ctx.autocast():
                for index, others in ctx.others(arguments):
                    check_lengths(ctx.plan.edge, [outputs, others])
                    credits[index] = _inner(grads, others)
                    del others  # frees it before the next one is made
        credits[active] = credit
        return torch.stack(credits), None, None, None, *passed, *(None for _ in arguments)


def check_lengths(edge: str, outputs: Sequence[Sequence[Any]]) -> None:
    """Refuse outputs of which one has more tensors than another, as where each layer of an elastic depth gives one.

    Args:
        edge: The edge's name.
        outputs: The outputs of its candidates.

    Raises:
        ValueError: Their lengths differ.

    Example:
        >>> check_lengths("depth", [[torch.ones(1)], []])
        Traceback (most recent call last):
            ...
        ValueError: candidates of edge 'depth' return 1 and 0 tensors, which cannot be mixed: leave out what each \
layer gives, as by output_hidden_states=True, or use AdvantageNAS or another strategy that runs one candidate
    """
    first, *others = map(len, outputs)
    other = next((other for other in others if other != first), None)
    if other is not None:
        raise ValueError(
            f"candidates of edge {edge!r} return {first} and {other} tensors, which cannot be mixed: leave out what"
            " each layer gives, as by output_hidden_states=True, or use AdvantageNAS or another strategy that runs one"
            " candidate"
        )


def _gated(grad: Tensor | None, gate: Tensor) -> Tensor | None:
    """The gradient of an output under a gate, as that of a product, which is linear in the gate."""
    return None if grad is None else (gate * widened(grad)).to(grad.dtype)


def _inner(grads: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> Tensor:
    """The sum Σ ⟨∂L/∂y, y⟩ over the tensors of an output, scalar."""
    credits = [_inner_product(grad, output) for grad, output in zip(grads, outputs, strict=True) if grad is not None]
    return reduce(torch.add, credits)


def _inner_product(grad: Tensor, output: Tensor) -> Tensor:
    """The real part of the inner product ⟨∂L/∂y, y⟩, scalar. A product of halves, or its sum, could overflow."""
    dtype = torch.promote_types(grad.dtype, output.dtype)
    grad, output = widened(grad, dtype), widened(output, dtype)
    if is_channels_last(output):  # reads both in the order of their memory
        grad, output = grad.permute(0, 2, 3, 1), output.permute(0, 2, 3, 1)
    return torch.vdot(output.reshape(-1), grad.reshape(-1)).real  # one pass, without a tensor of products


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which operations on a device keep the types of what they are given.

    Example:
        >>> one = torch.ones(1, 1)
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(one.device):
        ...     (one @ one).dtype
        torch.float32
    """
    on = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def is_channels_last(output: Tensor) -> bool:
    """Whether images lie in memory pixel by pixel, in the channels-last format.

    Example:
        >>> images = torch.zeros(2, 3, 4, 4)
        >>> is_channels_last(images), is_channels_last(images.to(memory_format=torch.channels_last))
        (False, True)
    """
    return output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last)


def _sum(values: Tensor) -> Tensor:
    """The real part of a sum, in single precision at least, since half precision could overflow."""
    return values.sum(dtype=torch.promote_types(values.dtype, torch.float32)).real


def is_floating(value: Any) -> bool:
    """Whether a value is a tensor that can have a gate.

    Example:
        >>> is_floating(torch.tensor(1.0)), is_floating(torch.tensor(1)), is_floating(1.0)
        (True, False, False)
    """
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def floating_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output that have a gate, in the order in which outputs are mixed.

    Example:
        >>> [tensor.item() for tensor in floating_tensors({"a": (torch.tensor(1.0), torch.tensor(2)), "b": "text"})]
        [1.0]
    """
    if is_floating(value):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from floating_tensors(item)
    elif isinstance(value, MutableMapping):
        for key in value:
            yield from floating_tensors(value[key])


def structure(value: Any, leaf: Callable[[Any], Any] = lambda value: type(value).__name__) -> Any:
    """The shapes of the tensors in a value, in the same containers. This does not wait for the device.

    Args:
        value: A tensor, or nested tuples, lists and dicts of tensors and other values.
        leaf: A function that describes a value that is no tensor.

    Example:
        >>> structure([torch.zeros(2, 3), "text"])
        [torch.Size([2, 3]), 'str']
    """
    if isinstance(value, Tensor):
        if value.is_nested:  # each of its samples has a size of its own
            return value.dtype, "nested"
        return value.shape if is_floating(value) else (value.dtype, value.shape)
    if isinstance(value, tuple):
        return tuple([structure(item, leaf) for item in value])
    if isinstance(value, list):
        return [structure(item, leaf) for item in value]
    if isinstance(value, MutableMapping):
        return {key: structure(item, leaf) for key, item in value.items()}
    return leaf(value)


def comparable(value: Any) -> Any:
    """A value that differs between two calls if their outputs may have different structures.

    Plain flags may change the output's structure, so they are compared. Other objects never compare equal.

    Example:
        >>> comparable(True) == comparable(True), comparable(nn.ReLU()) == comparable(nn.ReLU())
        (True, False)
    """
    return value if value is None or isinstance(value, int | float | str) else object()
