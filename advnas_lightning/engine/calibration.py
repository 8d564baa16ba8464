"""Running statistics of normalization layers for one architecture, in place of the mixture over all that were drawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader, rank_zero_warn
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from advnas_lightning.engine.evaluation import SkippedStep
from advnas_lightning.engine.fingerprint import fingerprint
from advnas_lightning.engine.lightning_private import NormalizationLayer, copied_batch
from advnas_lightning.loader_pass import first_batches
from advnas_lightning.loaders import KEYS
from advnas_lightning.modes import modes_kept
from advnas_lightning.space.search_space import Architecture, SearchSpace
from advnas_lightning.texts import listed

Statistics = Mapping[NormalizationLayer, Mapping[str, Tensor]]  # the buffers of a layer by their names
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
DEFAULT = 10  # batches


class Calibration:
    """Recomputes the running statistics of normalization layers for the architecture that is evaluated.

    In a search the running statistics are means over all architectures that were drawn, and fit none of them. Here an
    architecture runs on some training batches, and each layer's statistics are the means over these batches, as with
    ``momentum=None`` in plain training. Dropout is off, since the network is in eval mode, except for those layers that
    are in training mode while the network trains. If the network's step raises an error in eval mode, the passes are
    made in training mode and with a graph, as in a weight step.

    The passes leave no trace, and the network has the statistics only while it is evaluated. What trains it or saves it
    sees the shared ones.

    Cost: one forward pass for each batch, and so ``size`` passes in each validation. It takes no pass where no layer
    keeps running statistics, and none where the weights have not changed since the last time.

    Args:
        model: The network.
        space: Its edges.
        run: Runs the bound network on a training batch, which is as a loader gives it.
        no_trace: A context after which everything is as before, given the architecture that runs.
        size: How many batches are used; 0 for no calibration.
        reload: Tries to load the batches again, where a search has gone on and there are none.

    Attributes:
        batches: The newest training batches of the epoch, as the loader gave them. They lie in host memory.

    Example:
        >>> from contextlib import nullcontext
        >>> from advnas_lightning import MixedOp
        >>> net = nn.Sequential(MixedOp("scale", {"one": nn.Identity(), "two": nn.Tanh()}), nn.BatchNorm1d(1))
        >>> space = SearchSpace(net)
        >>> calibration = Calibration(net, space, net, lambda _: nullcontext(), size=2)
        >>> batches = torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])
        >>> found = calibration.statistics(space.one_hot([0]), batches)
        >>> found[net[1]]["running_mean"], net[1].running_mean
        (tensor([4.]), tensor([0.]))
    """

    def __init__(
        self,
        model: nn.Module,
        space: SearchSpace,
        run: Callable[[Any], Any],
        no_trace: Callable[[Architecture], AbstractContextManager[None]],
        *,
        size: int,
        reload: Callable[[], None] = lambda: None,
    ) -> None:
        self._model, self._space, self._run, self._no_trace = model, space, run, no_trace
        self.size, self._reload = size, reload
        self.batches: deque[Any] = deque(maxlen=size)
        self._kept = 0  # how many batches were ever kept
        self._layers = self._find()
        self._frozen: set[NormalizationLayer] | None = None  # is known once the network has trained
        self._found: dict[tuple[int, ...], Statistics] = {}
        self._state: list[int] = []  # of the network for which they were found
        self._is_sure = False  # whether that is known to be its present state
        self._shared: Statistics = {}  # of the layers that have others now
        self._needs_training_mode = self._has_warned = self._is_paused = False

    def __getstate__(self) -> dict[str, Any]:
        """The state without the batches, which a copy of the search does not need."""
        return {**vars(self), "batches": deque(maxlen=self.size)}

    # -- the batches ---------------------------------------------------------------------------------------------------

    @property
    def is_on(self) -> bool:
        """Whether there is something to calibrate."""
        return self.size > 0 and bool(self._layers)

    def keep(self, batch: Any) -> None:
        """Keep a training batch, in the place of the oldest one where there are enough."""
        if self.is_on:
            self.batches.append(self._copied(batch))
            self._kept += 1

    def begin_epoch(self) -> None:
        """Drop the batches. Those that will be kept are of one epoch, so that a search can go on with the same ones."""
        self.batches = deque(maxlen=self.size)
        self._layers = self._find()  # since the last time modules may have been added

    def use(self, batches: Any) -> None:
        """Use these batches until the next epoch of training, as after loading a checkpoint.

        Args:
            batches: As :meth:`take` takes them.
        """
        given = self.take(batches)
        self.batches = deque(maxlen=max(self.size, len(given)))
        for batch in given:
            self.keep(batch)

    def kept(self) -> list[Any]:
        """The batches, which are loaded again where a search has gone on and there are none."""
        if not self.batches:
            self._reload()
        return list(self.batches)

    def take(self, batches: Any) -> list[Any]:
        """The batches that a user gives. To take them changes no random number but those of persistent workers.

        Args:
            batches: A list, of which all batches are used; or a loader of training batches, of which the first ones
                are; or the loaders of a search, of which those for the weight steps count.

        Raises:
            ValueError: A dict has no loader of a search, or it is nothing that gives batches.
        """
        if isinstance(batches, list | tuple | deque):
            return list(batches)
        loaders, places = batches, "training batches come from a loader, a list or the loaders of a search"
        if isinstance(batches, CombinedLoader):
            loaders = batches.iterables
        if isinstance(loaders, Mapping):
            role = next((each for each in KEYS if each in loaders), None)
            if role is None:
                raise ValueError(
                    f"{places}, and here is a {type(loaders).__name__} of {listed(map(str, loaders))}: give an"
                    " architecture as genotype="
                )
            loaders = loaders[role]
        if not isinstance(loaders, Iterable):
            raise ValueError(f"{places}, and {type(loaders).__name__} is none of them")
        return first_batches(loaders, self.size or DEFAULT)

    def _copied(self, batch: Any) -> Any:
        """A batch that a step may change: it has tensors of its own if they are not moved to another device."""
        return copied_batch(batch, next(self._layers[0].buffers()).device)

    # -- the layers ----------------------------------------------------------------------------------------------------

    def note_modes(self) -> None:
        """Note which layers are frozen: those in eval mode while the network trains."""
        self._is_sure = False
        if self.is_on:
            self._frozen = {layer for layer in self._layers if not layer.training}

    def _find(self) -> list[NormalizationLayer]:
        modules = self._model.modules()
        return [each for each in modules if isinstance(each, NormalizationLayer) and each.running_mean is not None]

    def _moving(self) -> list[NormalizationLayer]:
        """The layers whose statistics move in training."""
        frozen, layers = self._frozen, self._find()
        if frozen is None:
            frozen = {layer for layer in layers if self._model.training and not layer.training}
        self._layers = layers
        moving = [layer for layer in layers if layer not in frozen and layer.momentum != 0]
        return [layer for layer in moving if not any(map(is_lazy, layer.buffers()))]

    # -- the statistics ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin an evaluation: what was found is used once more only if the network has not changed."""
        self._is_sure = False

    @contextmanager
    def evaluating(self, architecture: Architecture, *, warns: bool) -> Iterator[None]:
        """A context in which the network has the statistics of an architecture on the kept batches.

        Args:
            architecture: What is evaluated.
            warns: Whether to warn where there are no batches.
        """
        if self._is_paused:
            yield
            return
        found, before = self.found(architecture, warns=warns), self._shared
        self._shared = {**{layer: _buffers(layer) for layer in found}, **before}
        try:
            with applied(found):
                yield
        finally:
            self._shared = before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which the network has the shared statistics, also while an architecture is evaluated."""
        before, self._is_paused = self._is_paused, True
        try:
            with applied(self._shared):
                yield
        finally:
            self._is_paused = before

    def found(self, architecture: Architecture, *, warns: bool = True) -> Statistics:
        """The statistics of a discrete architecture on the kept batches.

        They are those of the last time if the network has not changed since. Where there are neither, there are none.

        Args:
            architecture: What to run.
            warns: Whether to warn where there are no batches.
        """
        if not self.is_on or architecture.choice is None:
            return {}
        if not self._is_sure:
            self._drop_old()
            self._is_sure = True
        if architecture.choice in self._found:
            return self._found[architecture.choice]
        if batches := self.kept() if warns else self.batches:
            self._found[architecture.choice] = self.statistics(architecture, batches)
        elif warns and not self._has_warned and self._moving():
            self._has_warned = True
            rank_zero_warn(
                "the normalization layers have the running statistics of all architectures together, because there are"
                " no training batches to compute those of one: give some with search.calibration.use(loader)"
            )
        return self._found.get(architecture.choice, {})

    def _drop_old(self) -> None:
        """Drop what was found for another state of the network or on other batches."""
        state = [self._kept, *fingerprint(self._model)]
        if self._state != state:
            self._found, self._state = {}, state

    def state_dict(self) -> dict[str, Any]:
        """What is known of the network as it is now, without a pass: as a rule what was validated last."""
        if self._found:
            self._drop_old()
        names = {module: name for name, module in self._model.named_modules()}
        found = [
            [list(choice), {names[layer]: dict(buffers) for layer, buffers in statistics.items()}]
            for choice, statistics in self._found.items()
        ]
        frozen = None if self._frozen is None else [names[layer] for layer in self._frozen]
        return {"state": self._state, "found": found, "frozen": frozen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`. It counts if the network gets the state that it had then."""
        modules: dict[str, Any] = dict(self._model.named_modules())
        self._found = {
            tuple(choice): {modules[name]: buffers for name, buffers in statistics.items()}
            for choice, statistics in state["found"]
            if statistics.keys() <= modules.keys()
        }
        if state["frozen"] is not None:
            self._frozen = {modules[name] for name in state["frozen"] if name in modules}
        self._state, self._is_sure = list(state["state"]), False
        self._kept = max([self._kept, *self._state[:1]])

    def statistics(self, architecture: Architecture, batches: Iterable[Any]) -> Statistics:
        """The statistics of those layers that run in an architecture. One forward pass is made for each batch.

        Args:
            architecture: What to run.
            batches: Training batches, as a loader gives them.

        Returns:
            The buffers by layer and name.
        """
        layers, batches = self._moving(), list(batches)
        if not layers or not batches:
            return {}
        if not self._needs_training_mode:
            try:
                return self._statistics(architecture, batches, layers, as_in_training=False)
            except Exception:  # of the network itself: a step that is never made in eval mode need not be able to
                self._needs_training_mode = True
        try:
            return self._statistics(architecture, batches, layers, as_in_training=True)
        except Exception as error:
            error.add_note(
                "This was a pass for the running statistics of the architecture that is evaluated: calibrate=0 leaves"
                " it out."
            )
            raise

    def _statistics(
        self,
        architecture: Architecture,
        batches: Sequence[Any],
        layers: Sequence[NormalizationLayer],
        *,
        as_in_training: bool,
    ) -> Statistics:
        with ExitStack() as stack:
            # Lightning evaluates in inference mode, and its tensors could be no part of a network that trains.
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(as_in_training))
            stack.enter_context(self._no_trace(architecture))
            stack.enter_context(self._space.bind(architecture))
            stack.enter_context(_modes(self._model, layers, as_in_training=as_in_training))
            stack.enter_context(_eager())
            counts = stack.enter_context(_averaging(layers))
            for batch in batches:
                with suppress(SkippedStep):
                    self._run(self._copied(batch))
            return {layer: _buffers(layer) for layer in layers if counts[layer]}


@contextmanager
def applied(statistics: Statistics) -> Iterator[None]:
    """A context in which normalization layers have other statistics. The layers' own tensors are not written to.

    Args:
        statistics: The buffers by layer and name.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> with applied({norm: {"running_mean": torch.ones(1)}}):
        ...     norm.running_mean
        tensor([1.])
        >>> norm.running_mean
        tensor([0.])
    """
    own = {layer: _buffers(layer) for layer in statistics}
    try:
        for layer, buffers in statistics.items():
            for name, value in buffers.items():
                setattr(layer, name, value.to(own[layer][name].device))
        yield
    finally:
        for layer, buffers in own.items():
            for name, value in buffers.items():
                setattr(layer, name, value)


def _buffers(layer: NormalizationLayer) -> dict[str, Tensor]:
    return {name: buffer for name in BUFFERS if (buffer := getattr(layer, name, None)) is not None}


@contextmanager
def _averaging(layers: Iterable[NormalizationLayer]) -> Iterator[Mapping[NormalizationLayer, int]]:
    """A context in which layers average the statistics of their passes, from none on; gives the numbers of passes."""
    counts = dict.fromkeys(layers, 0)
    before = [(layer, layer.momentum, _buffers(layer)) for layer in counts]

    def count(layer: NormalizationLayer, _: Any) -> None:
        counts[layer] += 1
        layer.momentum = 1 / counts[layer]  # as BatchNorm has it with momentum=None, and InstanceNorm does not

    hooks = [layer.register_forward_pre_hook(count) for layer in counts]
    try:
        for layer, _, own in before:
            for name, value in own.items():
                setattr(layer, name, torch.ones_like(value) if name == "running_var" else torch.zeros_like(value))
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum, own in before:
            layer.momentum = momentum
            for name, value in own.items():
                setattr(layer, name, value)


@contextmanager
def _modes(model: nn.Module, layers: Iterable[NormalizationLayer], *, as_in_training: bool) -> Iterator[None]:
    """A context in which these layers are in training mode, and other modules only if asked for."""
    with modes_kept(model):
        for module in model.modules():
            module.training = as_in_training and not isinstance(module, NormalizationLayer)
        for layer in layers:
            layer.training = True
        yield


def _eager() -> AbstractContextManager[Any]:
    """A context in which compiled modules run as they are written: they would be compiled anew for these few passes."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
