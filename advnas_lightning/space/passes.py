"""One forward pass of an edge: its candidates run on the same inputs, and their outputs are mixed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten  # torch has no public name for them

from advnas_lightning.space.attributes import is_plain
from advnas_lightning.space.gates import EdgePlan, OneHotGates, check_lengths, floating_tensors, is_floating
from advnas_lightning.space.tensors import counted, is_ordinary

Run = Callable[[int, tuple[Any, ...], dict[str, Any]], Any]


@dataclass
class EdgePass:
    """One forward pass of an edge.

    Attributes:
        names: The names of the edge's candidates.
        plan: What runs, and under which gates.
        run: Gives the output of a candidate, by its index, the inputs and the inputs by name.

    Example:
        >>> gates = torch.tensor([0.5, 2.0])
        >>> plan = EdgePlan("edge", (0, 1), gates, unit=False, inactive="none", copies_of=lambda *_: {})
        >>> def run(index, inputs, kwargs):
        ...     return {"times": (2, 3)[index] * inputs[0]}
        >>> EdgePass(("twice", "thrice"), plan, run).output((torch.ones(1),), {})
        {'times': tensor([7.])}
    """

    names: tuple[str, ...]
    plan: EdgePlan
    run: Run

    def output(self, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The edge's output: Σ_j a_j O_j, tensor by tensor. It shares no memory with the inputs.

        Args:
            inputs: What the edge was given.
            kwargs: What it was given by name.

        Raises:
            ValueError: The outputs differ in something that is not mixed, a candidate changes an input that others get,
                or the gate is to be differentiated where it can't be.
        """
        plan = self.plan
        if plan.gates is not None and plan.gates.requires_grad and not torch.is_grad_enabled():
            refuse_hidden_gate(plan.edge)
        if len(plan.paths) > 1:
            return self._mix(plan.paths, list(self._run_each(plan.paths, inputs, kwargs)), plan.mix)
        objects = objects_among(inputs, kwargs) if plan.inactive == "outputs" else []
        output = self._run_on_shared(plan.paths[0], objects, inputs, kwargs)
        if not plan.unit:
            return self._mix(plan.paths, [output], plan.mix)
        if plan.gates is None:
            return output if plan.is_bare else self._own(output, inputs, kwargs)
        if torch.compiler.is_compiling():
            # What is compiled of a function with a gradient of its own cannot be differentiated twice.
            apart = plan.inactive == "outputs"  # it needs little memory, and so is left out
            return _gated_apart(self, output, inputs, kwargs) if apart else self._product(output, inputs, kwargs)
        try:
            return self.gated(output, inputs, kwargs)
        except RuntimeError:  # torch.func and forward-mode differentiation take no function with a gradient of its own
            return self._product(output, inputs, kwargs)

    def _run_each(self, paths: Sequence[int], inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Run several candidates on the same inputs."""
        given = counted(_tensors(inputs, kwargs))
        before = [tensor._version for tensor in given]
        objects = objects_among(inputs, kwargs)
        for index in paths:
            yield self._run_on_shared(index, objects, inputs, kwargs)
            if [tensor._version for tensor in given] != before:
                raise ValueError(
                    f"candidate {self.names[index]!r} of edge {self.plan.edge!r} changes its input in place, and other"
                    " candidates get it, too: let it compute out of place"
                )

    def _run_on_shared(self, index: int, objects: list[Any], inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a candidate on what others get, too, and see that it fills none of the objects among that."""
        before = [tensors_held(each) for each in objects]
        output = self.run(index, inputs, kwargs)
        if self.plan.returned is not None and shares_memory(output, inputs, kwargs):
            self.plan.passing.add(index)
        for each, held in zip(objects, before, strict=True):
            if tensors_held(each) != held:
                raise ValueError(
                    f"candidate {self.names[index]!r} of edge {self.plan.edge!r} fills the {type(each).__name__} that"
                    " other candidates get, too: switch it off, as by use_cache=False"
                )
        return output

    def _own(self, output: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of the only candidate, in memory of its own, as a mixture has it.

        An input itself, as ``nn.Identity`` returns it, is copied, so that what follows may change it in place.
        """
        if not shares_memory(output, inputs, kwargs):
            return output
        if not torch.compiler.is_compiling():
            self.plan.passing.update(self.plan.paths)
        return self._mix(self.plan.paths, [output], lambda own: _as(own[0], own[0], copies=True))

    def gated(self, output: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output under a gate of one, so that the gate can be differentiated."""
        plan, output = self.plan, self._own(output, inputs, kwargs)
        outputs = list(floating_tensors(output))
        if not outputs:
            return output
        plan.check_dense(outputs)
        if output is outputs[0] and plan.inactive != "outputs":  # a tensor, as nearly always: the short way
            (passed,) = OneHotGates.apply(plan.gates, plan, None, 1, output)
            return _as(output, passed, copies=plan.copies_outputs)
        arguments: list[Any] = []
        form: Any = None
        if plan.inactive == "outputs":
            arguments, form = tree_flatten((inputs, kwargs))
        places = [place for place, argument in enumerate(arguments) if isinstance(argument, Tensor)]
        tensors = [arguments[place].detach() for place in places]
        for place in places:
            arguments[place] = None  # so that only the graph holds the tensor, and frees it after its use

        def run_others(tensors: Sequence[Tensor]) -> Iterator[tuple[int, list[Tensor]]]:
            given = list(arguments)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor
            inputs, kwargs = tree_unflatten(given, form)
            others = [index for index in range(len(self.names)) if index not in plan.paths]
            outputs = self._run_each(others, inputs, kwargs)
            for index in others:
                yield index, list(floating_tensors(next(outputs)))
            next(outputs, None)  # compares the inputs with what they were, after the last one, too

        others = run_others if plan.inactive == "outputs" else None
        gated = iter(OneHotGates.apply(plan.gates, plan, others, len(outputs), *outputs, *tensors))
        return self._mix(plan.paths, [output], lambda own: _as(own[0], next(gated), copies=plan.copies_outputs))

    def _product(self, output: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same by the sum of products itself, Eq. (1)."""
        plan, (active,) = self.plan, self.plan.paths
        assert plan.gates is not None
        if plan.inactive == "none":
            return self._mix(plan.paths, [output], replace(plan, paths=(0,), gates=plan.gates.reshape(1)).mix)
        dense = replace(plan, paths=tuple(range(len(self.names))))
        if plan.inactive == "ones":

            def mix(own: list[Tensor]) -> Tensor:
                return dense.mix([own[0] if index == active else torch.ones_like(own[0]) for index in dense.paths])

            return self._mix(plan.paths, [output], mix)
        return self._mix(dense.paths, list(self._run_each(dense.paths, inputs, kwargs)), dense.mix)

    def _mix(self, paths: tuple[int, ...], outputs: list[Any], mix: Callable[[list[Tensor]], Tensor]) -> Any:
        """Mix the floating-point tensors of several outputs, and check that everything else in them is equal."""
        first = outputs[0]
        if is_floating(first):
            return mix(outputs)
        if isinstance(first, list | tuple):
            check_lengths(self.plan.edge, outputs)
            items = [self._mix(paths, list(column), mix) for column in zip(*outputs, strict=True)]
            return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
        if isinstance(first, MutableMapping):
            mixed = copy.copy(first)  # keeps its type
            for key in first:
                mixed[key] = self._mix(paths, [output[key] for output in outputs], mix)
            return mixed
        for index, other in zip(paths, outputs, strict=True):
            if not (other is first or (torch.equal(other, first) if isinstance(first, Tensor) else other == first)):
                what = "different integers" if isinstance(first, Tensor) else f"{first!r} and {other!r}"
                raise ValueError(
                    f"candidates {self.names[paths[0]]!r} and {self.names[index]!r} of edge {self.plan.edge!r} return"
                    f" {what}: only floating-point tensors are mixed, make all else equal"
                )
        return first


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _gated_apart(edge: EdgePass, output: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A gate outside of what is compiled."""
    return edge.gated(output, inputs, kwargs)


def shares_memory(output: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a floating-point tensor of an output lies in the memory of an input, or of another one of the output.

    Args:
        output: What a candidate returned.
        inputs: What it was given.
        kwargs: What it was given by name.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> shares_memory(x.view(6), (x,), {}), shares_memory(x + 1, (x,), {})
        (True, False)
    """
    if torch.compiler.is_compiling():  # a compiler cannot tell, and leaves out what is copied in vain
        return True
    taken = {_memory(given) for given in _tensors(inputs, kwargs)}
    for tensor in floating_tensors(output):
        place = _memory(tensor)
        if place is None or place in taken:
            return True
        taken.add(place)
    return False


def _as(source: Tensor, tensor: Tensor, *, copies: bool) -> Tensor:
    """A tensor, or a copy of it, with the attributes of another one that is of a class of its own.

    The class's own ``clone`` may want attributes that a result of torch's functions does not have.
    """
    made = Tensor.clone(tensor) if copies else tensor
    if type(source) is not Tensor and is_ordinary(source) and not torch.compiler.is_compiling():
        vars(made).update(vars(source))
    return made


def _tensors(inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
    if not kwargs and all(isinstance(given, Tensor) for given in inputs):
        return inputs
    return [leaf for leaf in tree_leaves((inputs, kwargs)) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int | None:
    """Where a tensor's memory begins; ``None`` where that is not known, as of sparse tensors and in ``vmap``."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return None


def objects_among(inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """What is neither a tensor nor a plain value among the arguments of a candidate, such as a cache of keys.

    Example:
        >>> objects_among((torch.ones(1), None), {"size": 3, "parts": [cache := object()]}) == [cache]
        True
    """
    return [leaf for leaf in tree_leaves((inputs, kwargs)) if not (isinstance(leaf, Tensor) or is_plain(leaf))]


def tensors_held(value: Any, depth: int = 6) -> list[int]:
    """The identities of the tensors that an object holds, such as a cache of keys and values.

    Args:
        value: The object.
        depth: How many levels of objects and containers are looked into, each object once.

    Example:
        >>> from types import SimpleNamespace
        >>> key = torch.ones(1)
        >>> tensors_held(SimpleNamespace(layers=[SimpleNamespace(keys=key, size=1)])) == [id(key)]
        True
    """
    found: list[int] = []
    seen: set[int] = set()
    level = [value]
    for _ in range(depth + 1):
        parts: list[Any] = []
        for each in level:
            if isinstance(each, Tensor):
                found.append(id(each))
            elif id(each) not in seen and not is_plain(each):
                seen.add(id(each))
                held = each if isinstance(each, list | tuple) else getattr(each, "__dict__", each)
                held = list(held.values()) if isinstance(held, MutableMapping) else held
                parts += held if isinstance(held, list | tuple) else ()
        level = parts
    return found


def refuse_hidden_gate(edge: str) -> None:
    """Refuse an edge whose gate is to be differentiated, and which runs inside a function with a gradient of its own.

    Reentrant checkpointing is such a function: it runs the network without a graph, and once more in the backward pass,
    where it gives gradients to its inputs and adds them to those of parameters. A gate is neither. Without a graph for
    another reason, such as ``torch.no_grad`` around a teacher, an edge runs as all does there.

    Args:
        edge: The edge's name.

    Raises:
        ValueError: There is such a function.

    Example:
        >>> refuse_hidden_gate("edge")  # there is none
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "forward":
            for value in frame.f_locals.values():
                if isinstance(value, FunctionCtx):
                    raise ValueError(
                        f"edge {edge!r} runs inside {type(value).__name__.removesuffix('Backward')}, where its gate"
                        " gets no gradient: checkpoint it with use_reentrant=False"
                    )
        frame = frame.f_back
