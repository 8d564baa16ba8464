"""What the steps of a network write to beside its own optimizer, also in candidates that do not run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from advnas_lightning.engine.fingerprint import checksums
from advnas_lightning.engine.snapshot import Slot, is_writable
from advnas_lightning.space.mixed_op import mixed_ops

Candidate = tuple[str, int]  # the name of an edge, and the index of one of its candidates


class Reach:
    """Learns from weight steps whether a network's step changes candidates that do not run, as momentum networks do.

    What the passes of a weight step change may stay, so that checksums are enough to see it, and no copies are needed.
    The first, the second, the fourth, the eighth, … weight step is watched, until one is found that does.

    In all of them it notes the parameters and buffers that a pass writes to, such as those of a target network that is
    copied every so many steps: an architecture step may do so, too. What is written through ``.data`` is not seen.

    Args:
        root: The module that has the network in it.

    Attributes:
        left_alone: The candidates that a watched weight step did not run, and did not change.
        is_far: Whether one has changed a parameter or a buffer of a candidate that it did not run.
        written: Whether the parameters and buffers that a pass has written to need no gradient, by their slots' keys.

    Example:
        >>> import torch
        >>> from advnas_lightning import MixedOp
        >>> net = nn.Sequential(MixedOp("edge", {"one": nn.Linear(1, 1), "two": nn.Linear(1, 1)}))
        >>> reach = Reach(net)
        >>> with reach.watched(lambda: {("edge", 0)}):
        ...     loss = net[0].candidates["one"](torch.ones(1))
        >>> reach.left_alone, reach.is_far
        ({('edge', 1)}, False)
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._passes = 0
        self.left_alone: set[Candidate] = set()
        self.is_far = False
        self.written: dict[tuple[int, str], bool] = {}
        self._tensors: list[tuple[Slot, Tensor]] = []  # which count what is written to them

    def __getstate__(self) -> nn.Module:
        """A copy has learned nothing: it is of other modules."""
        return self._root

    def __setstate__(self, root: nn.Module) -> None:
        self.__init__(root)  # type: ignore[misc]

    @contextmanager
    def watched(self, running: Callable[[], Collection[Candidate]]) -> Iterator[None]:
        """A context for the forward and the backward pass of a weight step.

        Args:
            running: Gives the candidates that run in it.
        """
        self._passes += 1
        if is_power_of_two(self._passes):
            self._tensors = list(_counting(self._root))
        with self._noting_writes():
            if self.is_far or not is_power_of_two(self._passes):
                yield
                return
            candidates, tensors = self._idle(running())
            before = checksums(tensors)
            yield
            if checksums(tensors) == before:
                self.left_alone |= candidates
            else:
                self.is_far = True

    @contextmanager
    def _noting_writes(self) -> Iterator[None]:
        before = [tensor._version for _, tensor in self._tensors]
        yield
        for (slot, tensor), version in zip(self._tensors, before, strict=True):
            if tensor._version != version:
                self.written[slot.key] = isinstance(tensor, nn.Parameter) and not tensor.requires_grad

    def _idle(self, running: Collection[Candidate]) -> tuple[set[Candidate], list[Tensor]]:
        """The candidates that do not run, and the parameters and buffers that only they have."""
        candidates: set[Candidate] = set()
        idle_modules: set[int] = set()
        running_modules: set[int] = set()
        for op in mixed_ops(self._root):
            for index, candidate in enumerate(op.candidates.values()):
                if (op.name, index) in running:
                    running_modules.update(map(id, candidate.modules()))
                else:
                    candidates.add((op.name, index))
                    idle_modules.update(map(id, candidate.modules()))
        idle: dict[int, Tensor] = {}
        others: set[int] = set()
        idle_modules -= running_modules
        for module in self._root.modules():
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            if id(module) in idle_modules:
                idle.update((id(tensor), tensor) for tensor in tensors)
            else:
                others.update(map(id, tensors))
        # Where a tensor gets other memory, its old one can be put back. So it is enough to look at the old memory.
        own = [tensor.data for key, tensor in idle.items() if key not in others and is_writable(tensor)]
        return candidates, own


def _counting(root: nn.Module) -> Iterator[tuple[Slot, Tensor]]:
    """The parameters and buffers of a module that have a count of what is written to them."""
    for module in root.modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if is_writable(tensor) and not tensor.is_inference():
                yield Slot(module, name), tensor


def is_power_of_two(number: int) -> bool:
    """Whether a number is 1, 2, 4, 8, ….

    Args:
        number: A whole number.

    Example:
        >>> [number for number in range(10) if is_power_of_two(number)]
        [1, 2, 4, 8]
    """
    return number > 0 and number & (number - 1) == 0
