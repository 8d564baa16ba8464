"""Gates of one: what a candidate returned, and in the backward pass the credit of its edge's gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn

Inactive = Literal["none", "ones", "outputs"]
RunOthers = Callable[[Sequence[Tensor]], Iterator[tuple[int, list[Tensor]]]]
CopiesOf = Callable[[Any, int], dict[nn.Parameter, Tensor]]  # of an offloaded MixedOp's candidate, on the device


@dataclass
class EdgePlan:
    """What one edge does in one forward pass.

    Attributes:
        paths: the candidates that run, by index.
        gates: ``[J]``; or the active gate alone, a scalar; or ``None`` where one candidate runs and its gate is not
            differentiated.
        unit: whether one candidate runs, under a gate of one.
        inactive: the gradient of the gates of candidates that did not run, see :class:`Architecture`.
        copies_of: gives the parameters of an offloaded candidate on the device.
    """

    paths: tuple[int, ...]
    gates: Tensor | None
    unit: bool
    inactive: Inactive
    copies_of: CopiesOf

    def mix(self, outputs: list[Tensor]) -> Tensor:
        """Σ_j a_j O_j over the candidates that ran."""
        assert self.gates is not None
        gates = self.gates
        if len(self.paths) < len(gates):
            gates = torch.stack([gates[path] for path in self.paths])  # a list as an index would wait for the device
        images = is_channels_last(outputs[0])
        if images:  # stacked as they lie in memory, so that what follows finds their format again
            outputs = [output.permute(0, 2, 3, 1) for output in outputs]
        stacked = torch.stack(outputs)  # [paths, ...]
        mixed = (gates.to(stacked.dtype) @ stacked.reshape(len(stacked), outputs[0].numel())).view_as(outputs[0])
        return mixed.permute(0, 3, 1, 2) if images else mixed


@dataclass
class EdgeState:
    """Holds the current plan of an edge. All MixedOps of one name share it."""

    plan: EdgePlan | None = None


class OneHotGates(torch.autograd.Function):
    """Passes on what one candidate returned under a gate of one; its backward pass gives the credit of the gates.

    A product with the gate would do the same, and its backward pass would read and write the memory twice more.

    ``forward(gates, plan, others, count, *outputs, *arguments)``:

    * ``gates``: ``[J]``, or the active gate alone, a scalar;
    * ``plan``: what the edge does;
    * ``others``: runs the other candidates on the ``arguments``, or ``None`` where they do not run;
    * ``count``: how many of the tensors that follow are outputs.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, plan: EdgePlan, others: RunOthers | None, count: int, *tensors: Tensor) -> Any:
        """The outputs, as tensors of their own."""
        ctx.plan, ctx.others, ctx.count = plan, others, count
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
        """The credit of the gates, and the gradients of the outputs as they came."""
        tensors = ctx.saved_tensors  # once: checkpointing makes them anew
        outputs, arguments = tensors[: ctx.count], tensors[ctx.count :]
        if all(grad is None for grad in grads):  # what followed has not used it
            return (None,) * (4 + len(tensors))
        credit = _inner(grads, outputs)
        if ctx.one:
            return credit, None, None, None, *grads
        (active,) = ctx.plan.paths
        credits = list(ctx.zeros().unbind())  # of a padded row, too
        if ctx.plan.inactive == "ones":
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
    credits = [_inner_product(grad, output) for grad, output in zip(grads, outputs, strict=True) if grad is not None]
    return reduce(torch.add, credits)


def _inner_product(grad: Tensor, output: Tensor) -> Tensor:
    """Re⟨∂L/∂y, y⟩, scalar."""
    if torch.promote_types(grad.dtype, torch.float32) != grad.dtype:
        return _sum(grad * output.conj())
    if is_channels_last(output):  # as they lie in memory
        grad, output = grad.permute(0, 2, 3, 1), output.permute(0, 2, 3, 1)
    return torch.vdot(output.reshape(-1), grad.reshape(-1)).real  # one pass, without a tensor of products


def is_channels_last(output: Tensor) -> bool:
    """Whether images lie in memory pixel by pixel."""
    return output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last)


def _sum(values: Tensor) -> Tensor:
    """The real part of a sum in single precision at least: a half could overflow."""
    return values.sum(dtype=torch.promote_types(values.dtype, torch.float32)).real


def is_floating(value: Any) -> bool:
    """Whether a value is a tensor that can have a gate."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def floating_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an output that have a gate, in the order in which outputs are mixed."""
    if is_floating(value):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from floating_tensors(item)
    elif isinstance(value, MutableMapping):
        for key in value:
            yield from floating_tensors(value[key])


def structure(value: Any, leaf: Callable[[Any], Any] = lambda value: type(value).__name__) -> Any:
    """The shapes in a value, in its containers. This asks nothing of the device."""
    if isinstance(value, Tensor):
        return value.shape if is_floating(value) else (value.dtype, value.shape)
    if isinstance(value, tuple):
        return tuple([structure(item, leaf) for item in value])
    if isinstance(value, list):
        return [structure(item, leaf) for item in value]
    if isinstance(value, MutableMapping):
        return {key: structure(item, leaf) for key, item in value.items()}
    return leaf(value)


def comparable(value: Any) -> Any:
    """A value that tells whether two calls may return different structures."""
    # Plain flags may change the output's structure, so they are compared. Other objects never compare equal.
    return value if value is None or isinstance(value, int | float | str) else object()
