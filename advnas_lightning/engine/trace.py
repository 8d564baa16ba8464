"""What an evaluation of an architecture must not leave behind in the network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from advnas_lightning.engine.reach import Candidate, Reach, is_power_of_two
from advnas_lightning.engine.snapshot import Change, Slot, Snapshot, is_writable
from advnas_lightning.space.mixed_op import MixedOp, mixed_ops

BASE = frozenset(vars(nn.Module()))  # the attributes that every module has


@dataclass(eq=False)
class _Part:
    """Modules that run together: those of one candidate, or those beside all candidates.

    Attributes:
        modules: All of them.
        keepers: Those whose attributes are put back in every evaluation in which they run.
        holders: Others of which tensors alone are put back.
        runs: In how many evaluations they have run.
        is_behind: Whether they have run since all of their modules and tensors were last compared.
    """

    modules: list[nn.Module] = field(default_factory=list)
    keepers: list[nn.Module] = field(default_factory=list)
    holders: list[nn.Module] = field(default_factory=list)
    runs: int = 0
    is_behind: bool = False


class Trace:
    """Puts a network back as it was before an evaluation, whatever its forward pass and its training step change.

    Everything that a module keeps is put back: attributes, containers, metrics, buffers, and the states of random
    number generators, see :class:`~advnas_lightning.engine.snapshot.Snapshot`. To copy the contents of all parameters
    and large tensors, and the attributes of modules that have none of their own, would take too long in every
    evaluation. The trace learns which of them change. It looks at all of them at evaluations 1, 2, 4, 8, … (at those of
    a candidate also at the 1st, 2nd, 4th, 8th, … evaluation in which it runs). In between it copies those that have
    changed before. What first changes in between is found at the next power of two, is put back from then on, and is
    named in a warning. A parameter that is written is found at once, unless it is written through ``.data``: so is the
    target of a momentum network that is copied every so many steps, which may never be a power of two. If a weight step
    has written it before, it is put back from the first time on. Once a parameter has changed that needs no gradient,
    as in a momentum network, all such parameters are copied in every evaluation.

    To look at contents is to copy and compare them, so that they can be put back. But copies of all candidates would
    take as much memory as the candidates. Of one that does not run, the trace takes a checksum instead, once a weight
    step that did not run it has left it alone, see :class:`~advnas_lightning.engine.reach.Reach`. Where an evaluation
    changes it all the same, this is found, it is put back from the next evaluation on, and is named in the warning.

    What is not in the process's own memory is not put back, such as files, and loggers that a module calls itself. Nor
    are iterators, and objects of torch and Lightning that are no modules, except for schedules of learning rates.

    Args:
        root: The module that has the network in it.
        apart: Modules in it that evaluations do not concern.
        reach: What weight steps show of candidates that do not run; by default there are none that show it.
        gradients: Whether the gradients of parameters are put back, too.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with Trace(norm).removed():
        ...     _ = norm(torch.ones(3, 2))
        >>> norm.running_mean
        tensor([0., 0.])
    """

    def __init__(
        self,
        root: nn.Module,
        apart: Iterable[nn.Module] = (),
        reach: Reach | None = None,
        *,
        gradients: bool = True,
    ) -> None:
        self._root, self._apart, self._gradients = root, list(apart), gradients
        self.reach = Reach(root) if reach is None else reach
        self._beside = _Part()
        self._candidates: dict[Candidate, _Part] = {}
        self._part_of: dict[int, _Part] = {}  # by the module's id, since a metric's hash changes with its state
        self._moving: set[tuple[int, str]] = set()  # the keys of slots whose tensors are known to change
        self._stateful: set[int] = set()  # the modules without attributes of their own that are known to get some
        self._reaches_far = False  # whether the step changes what does not run, or needs no gradient
        self._children: list[tuple[Mapping[str, nn.Module | None], list[int]]] = []  # of each module, and their ids
        self._ignored: set[int] = set()
        self._parameters: list[tuple[Slot, nn.Parameter]] = []  # those that have a count of what is written to them

    def __getstate__(self) -> tuple[nn.Module, list[nn.Module], Reach, bool]:
        """A copy has learned nothing: it is of other modules."""
        return self._root, self._apart, self.reach, self._gradients

    def __setstate__(self, state: tuple[nn.Module, list[nn.Module], Reach, bool]) -> None:
        root, apart, reach, gradients = state
        self.__init__(root, apart, reach, gradients=gradients)  # type: ignore[misc]

    @contextmanager
    def removed(self, running: Collection[Candidate] | None = None) -> Iterator[None]:
        """A context after which the network is as it was before.

        Args:
            running: The candidates that run; without it, all of them.
        """
        is_new = self.reach.is_far and not self._reaches_far
        self._reaches_far |= is_new
        self._learn_of_weight_steps()
        everywhere = is_new or is_power_of_two(self._beside.runs + 1)
        if everywhere or any(list(map(id, found.values())) != known for found, known in self._children):
            self._find_modules()
        if self._reaches_far:
            running = None
        ran = [self._beside, *(part for key, part in self._candidates.items() if running is None or key in running)]
        for part in ran:
            part.runs += 1
        idle = [part for part in self._every_part() if part not in ran] if everywhere else []
        compared = [*ran, *idle] if everywhere else [part for part in ran if is_power_of_two(part.runs)]
        summed = [part for key, part in self._candidates.items() if key in self.reach.left_alone and part in idle]
        snapshot = Snapshot({id(module) for part in summed for module in part.modules}, gradients=self._gradients)
        for part in compared:
            for module in part.modules:
                snapshot.keep(module, _always)
        for part in ran:
            if part not in compared:
                part.is_behind = True
                for module in part.keepers:
                    snapshot.keep(module, self._is_moving)
                for module in part.holders:
                    snapshot.keep_tensors(module, self._is_moving)
        for module in snapshot.others:  # grows while modules refer to others
            if id(module) not in self._part_of and id(module) not in self._ignored:
                for each in module.modules():
                    self._add(each, self._beside)
                    self._beside.keepers.append(each)
                    snapshot.keep(each, _always)
        versions = [(slot, parameter, parameter._version) for slot, parameter in self._parameters]
        try:
            yield
        finally:
            changes = snapshot.put_back(compare=bool(compared))
            if compared:
                self._learn(changes, ran, compared, is_new)
            written = [(slot, parameter) for slot, parameter, version in versions if parameter._version != version]
            if any(slot.key not in self._moving for slot, _ in written):
                self._learn_of_writes(written, snapshot, ran)

    def _is_moving(self, slot: Slot, tensor: Any) -> bool:
        frozen = self._reaches_far and isinstance(tensor, nn.Parameter) and not tensor.requires_grad
        return frozen or slot.key in self._moving

    def _every_part(self) -> list[_Part]:
        return [self._beside, *self._candidates.values()]

    def _find_modules(self) -> None:
        """Find the modules of each part: since the last time, modules may have been added."""
        owners: dict[int, set[_Part]] = {}
        for op in mixed_ops(self._root):
            for index, candidate in enumerate(op.candidates.values()):
                part = self._candidates.setdefault((op.name, index), _Part())
                for module in candidate.modules():
                    owners.setdefault(id(module), set()).add(part)
        self._part_of.clear()
        self._parameters.clear()
        for part in self._every_part():
            part.modules.clear()
        self._ignored = {id(each) for module in self._apart for each in module.modules()}
        for module in self._root.modules():
            if not isinstance(module, MixedOp) and id(module) not in self._ignored:
                own = owners.get(id(module), set())
                self._add(module, own.pop() if len(own) == 1 else self._beside)
        self._children = [
            (found, list(map(id, found.values())))
            for module in self._root.modules()
            if (found := _children(module)) or isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)
        ]
        self._choose()

    def _add(self, module: nn.Module, part: _Part) -> None:
        self._part_of[id(module)] = part
        part.modules.append(module)
        for name, parameter in module.named_parameters(recurse=False):
            if is_writable(parameter) and not parameter.is_inference():
                self._parameters.append((Slot(module, name), parameter))

    def _learn(self, changes: Sequence[Change], ran: Sequence[_Part], compared: Sequence[_Part], is_new: bool) -> None:
        """Note what changed, and warn of what may have changed before without being put back.

        Args:
            changes: What has changed.
            ran: The parts that count as running, which are all of them once the step reaches far.
            compared: The parts that were looked at.
            is_new: Whether it is new that the step reaches far.
        """
        late: list[str] = []
        known = len(self._moving), len(self._stateful), self._reaches_far
        for change in changes:
            part = self._part(change)
            if part not in compared:
                continue
            runs = part in ran
            was_copied = self._reaches_far and change.is_frozen and not is_new
            was_missed = change.is_lost or (part if runs and not is_new else self._beside).is_behind
            if self._note(change, runs=runs) and not was_copied and was_missed:
                late.append(self._name(change))
        self._reaches_far |= any(change.is_frozen or self._part(change) not in ran for change in changes)
        _warn_of(late)
        for part in compared:
            part.is_behind = False
        if known != (len(self._moving), len(self._stateful), self._reaches_far):
            self._choose()

    def _learn_of_weight_steps(self) -> None:
        """Note which tensors the pass of a weight step has written to."""
        if not self.reach.written.keys() <= self._moving:
            self._moving |= self.reach.written.keys()
            self._reaches_far |= any(self.reach.written.values())
            self._choose()

    def _learn_of_writes(
        self, written: Sequence[tuple[Slot, nn.Parameter]], snapshot: Snapshot, ran: Sequence[_Part]
    ) -> None:
        """Note which parameters were written, and warn of those that were not put back.

        Args:
            written: The parameters.
            snapshot: What was put back.
            ran: The parts that count as running.
        """
        late: list[str] = []
        for slot, parameter in written:
            if slot.key not in self._moving:
                change = Change(*slot, is_usual=False, is_frozen=not parameter.requires_grad)
                self._moving.add(slot.key)
                self._reaches_far |= change.is_frozen or self._part(change) not in ran
                if not snapshot.holds(parameter):
                    late.append(self._name(change))
        _warn_of(late)
        self._choose()

    def _choose(self) -> None:
        """Choose the modules that are looked at in every evaluation in which they run."""
        for part in self._every_part():
            part.keepers, part.holders = [], []
            for module in part.modules:
                if not _keeps_nothing(module) or id(module) in self._stateful:
                    part.keepers.append(module)
                elif self._holds(module):
                    part.holders.append(module)

    def _part(self, change: Change) -> _Part:
        return self._part_of.get(id(change.module), self._beside)

    def _note(self, change: Change, *, runs: bool) -> bool:
        """Remember what would not be put back in every evaluation; returns whether that is new."""
        if change.name is None:
            known: set[Any] = self._stateful
            key: Any = id(change.module)
            usual = not _keeps_nothing(change.module)
        else:
            known, key, usual = self._moving, (id(change.module), change.name), change.is_usual
        if key in known or (usual and runs):
            return False
        known.add(key)
        return True

    def _name(self, change: Change) -> str:
        """The name of what changed, as a user would write it."""
        names = {id(module): name for name, module in self._root.named_modules()}
        return ".".join(filter(None, (names.get(id(change.module), type(change.module).__name__), change.name)))

    def _holds(self, module: nn.Module) -> bool:
        """Whether a module that keeps nothing else has tensors that are put back."""
        own = list(module.named_parameters(recurse=False))
        moving = any(self._is_moving(Slot(module, name), parameter) for name, parameter in own)
        return moving or any(True for _ in module.buffers(recurse=False))


def _warn_of(late: Sequence[str]) -> None:
    """Warn of what has changed without being put back, by its names."""
    if late:
        rank_zero_warn(
            f"{', '.join(sorted(late))}: what gives the loss changes this, and did not at first. From now on it is put"
            " back after each evaluation of an architecture; after some of the last ones it may not have been"
        )


def _children(module: nn.Module) -> Mapping[str, nn.Module | None]:
    """A module's own dict of its children; a copy of it where a module has none, as in TorchScript."""
    found: Any = vars(module).get("_modules")
    return found if isinstance(found, dict) else dict(module.named_children())


def _keeps_nothing(module: nn.Module) -> bool:
    """Whether a module has no attributes of its own, or is of torch's own class, whose forward pass sets none."""
    return type(module).__module__.startswith("torch.nn.") or vars(module).keys() <= BASE


def _always(slot: Slot, tensor: Any) -> bool:
    return True
