"""The engine that all strategies share. It holds no formula: see each strategy's file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from lightning import Callback, LightningModule
from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import BaseFinetuning, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from advnas_lightning import functional, rng
from advnas_lightning.costs import ArchitectureCost
from advnas_lightning.loaders import SearchLoader
from advnas_lightning.space import Architecture, Genotype, MixedOp, Probabilities, SearchSpace
from advnas_lightning.strategies.accumulation import MicroBatches, WeightGroup, weighted_mean
from advnas_lightning.strategies.offloading import OffloadedWeights, WaitingCopies
from advnas_lightning.strategies.unfinished import UnfinishedEpoch
from advnas_lightning.tasks import Outcome, Task

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]
Which = Literal["argmax", "process_best"]
ClipAlgorithm = Literal["norm", "value"]
AVERAGING_OR_FREEZING: tuple[type[Callback], ...] = (
    BaseFinetuning,
    callbacks.StochasticWeightAveraging,
    *([callbacks.WeightAveraging] if hasattr(callbacks, "WeightAveraging") else []),  # since Lightning 2.6
)
HALF = (torch.bfloat16, torch.float16)
CHECKPOINT_FORMAT = 1  # rises when older ones cannot be resumed any more


@dataclass(frozen=True)
class Trial:
    """One evaluated draw: what a strategy learns from.

    Attributes:
        architecture: the draw.
        loss: scalar, detached; the mean over ``size`` terms.
        gate_grad: ``[E, J]``, G = ∂L/∂a; ``None`` for strategies that need no gradient.
        size: how many terms the loss is the mean of.
    """

    architecture: Architecture
    loss: Tensor
    gate_grad: Tensor | None
    size: int


def refuse(callback: Callback) -> None:
    """Raise a MisconfigurationException, with what to use instead, if a callback takes hold of automatic optimization.

    Under manual optimization Lightning runs some of them, and they do something else, or nothing.
    """
    name = type(callback).__name__
    if isinstance(callback, GradientAccumulationScheduler):
        instead = "give the strategy accumulate=…"
    elif isinstance(callback, AVERAGING_OR_FREEZING):
        instead = "use it in the training of the network that search.derive() gives"
    elif isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None:
        name += "(train_time_interval=…)"
        instead = "use advnas_lightning.checkpoints.LastCheckpoint(folder, every_n_minutes=…)"
    else:
        return
    raise MisconfigurationException(f"{name} is for automatic optimization: {instead}")


class SkippedStep(Exception):
    """Raised by a loss that leaves a batch out."""


def one_of(name: str, value: Any, allowed: Sequence[str]) -> Any:
    """Return ``value``, or raise a ValueError that names it and what is allowed."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown: use {' or '.join(allowed)}")
    return value


def whole(name: str, value: Any, *, least: int) -> int:
    """Return ``value``, or raise a ValueError if it is no whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    return value


def positive(name: str, value: float, *, zero: bool = False, most: float = math.inf) -> float:
    """Return ``value``, or raise a ValueError if it is no finite number above zero (or zero, with ``zero``)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 < value < math.inf or (zero and value == 0)) or value > most:
        bound = "" if most == math.inf else f" and at most {most}"
        raise ValueError(f"{name}={value!r} must be a finite number {'of at least' if zero else 'above'} 0{bound}")
    return value


def falling(tau_max: float, tau_min: float) -> tuple[float, float]:
    """Return both temperatures, or raise a ValueError if they are no positive numbers of which the first is larger."""
    positive("tau_max", tau_max)
    if positive("tau_min", tau_min) > tau_max:
        raise ValueError(f"tau_max={tau_max!r} must not be below tau_min={tau_min!r}: temperatures fall")
    return tau_max, tau_min


def as_loss(value: Any, source: str) -> Tensor:
    """Return ``value``, or raise a ValueError if it is no loss: a real scalar."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{source} gives a {type(value).__name__}: let it return the loss, a scalar tensor")
    if value.numel() != 1 or not value.is_floating_point():
        raise ValueError(
            f"{source} gives a loss of shape {list(value.shape)} and type {value.dtype}: let it return the mean, one"
            " real number"
        )
    return value


class SearchStrategy(LightningModule):
    """Alternates weight steps and architecture steps (Algorithm 1) by manual optimization.

    A strategy overrides :meth:`sample` (which architecture to draw) and :meth:`theta_gradient` (what came back, as a
    gradient of θ); rarely :meth:`sample_for_weights` and :meth:`after_theta_step`. A user overrides :meth:`loss`, or
    passes a ``task``.

    An architecture step takes ∂L/∂a alone: it changes no weight, buffer, ``.grad`` or state of the weight optimizer. A
    weight step never changes θ. Draws come from a CPU generator of the strategy's own, seeded from ``seed``.

    Args:
        model: a network that contains :class:`~advnas_lightning.space.MixedOp` edges; or a LightningModule with such a
            network, whose own steps, optimizer, schedules, hooks, metrics and logs are then used as they are (unless
            ``task`` is given, or :meth:`loss` is overridden).
        weight_optimizer: factory over the network's parameters; ``None`` leaves the weights as they are.
        architecture_optimizer: factory over the architecture parameters.
        weight_scheduler: factory over the weight optimizer; stepped at the end of each epoch. ``ReduceLROnPlateau``
            watches ``val/loss``.
        architecture_scheduler: factory over the architecture optimizer; stepped after each epoch in which θ moved.
        weight_clip: largest norm of the weight gradient, or ``None``.
        architecture_clip: largest norm of the architecture gradient, or ``None``.
        weight_clip_algorithm: ``"norm"``, or ``"value"``: ``weight_clip`` is the largest absolute value.
        architecture_clip_algorithm: the same for ``architecture_clip``.
        accumulate: how many batches count as one in each kind of step: with the same draw, and the mean over all their
            terms. An epoch's last steps may have fewer.
        warmup_epochs: epochs at the start in which θ stays and no architecture step happens.
        max_bad_steps: how many steps of a kind in a row may have a loss or a gate gradient that is not finite: such a
            step changes nothing and is counted; the next one ends the run.
        task: what a batch costs and which metrics it feeds; not needed where :meth:`loss` is overridden.
        cost: what architectures cost, beside their loss.
        offload: keep the candidates' parameters, and the weight optimizer's state of them, in host memory (§2): only
            those of the candidates that a step runs are copied to the device, see :meth:`MixedOp.offload`.
        which: the genotype that a run selects, ``"argmax"`` or ``"process_best"``; by default the strategy's own (§5).
        seed: of the draws.

    Raises:
        ValueError: the model has no MixedOp, or a bad argument.
    """

    searches: ClassVar[bool] = True  # whether θ ever moves
    selects: ClassVar[Which] = "argmax"  # the genotype selected by default
    needs_gate_grad: bool = True  # without, architecture steps run under no_grad
    draws: int = 1  # architectures evaluated per architecture step, on one minibatch

    def __init__(
        self,
        model: nn.Module,
        *,
        weight_optimizer: OptimizerFactory | None = None,
        architecture_optimizer: OptimizerFactory | None = None,
        weight_scheduler: SchedulerFactory | None = None,
        architecture_scheduler: SchedulerFactory | None = None,
        weight_clip: float | None = None,
        architecture_clip: float | None = None,
        weight_clip_algorithm: ClipAlgorithm = "norm",
        architecture_clip_algorithm: ClipAlgorithm = "norm",
        accumulate: int = 1,
        warmup_epochs: int = 0,
        max_bad_steps: int = 10,
        task: Task | None = None,
        cost: ArchitectureCost | None = None,
        offload: bool = False,
        which: Which | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if self.searches and architecture_optimizer is None:
            raise ValueError("architecture_optimizer=None: a search needs one, such as partial(Adam, lr=3e-3)")
        for name, factory in (
            ("weight_optimizer", weight_optimizer),
            ("architecture_optimizer", architecture_optimizer),
            ("weight_scheduler", weight_scheduler),
            ("architecture_scheduler", architecture_scheduler),
        ):
            if factory is not None and not callable(factory):
                kind = type(factory).__name__
                raise ValueError(f"{name} is a {kind}: give a factory, a callable such as partial({kind}, …)")
        whole("warmup_epochs", warmup_epochs, least=0)
        whole("max_bad_steps", max_bad_steps, least=1)
        whole("accumulate", accumulate, least=1)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed!r} must be a whole number from 0 to 2**63 - 1")
        if not isinstance(model, nn.Module):
            given = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
            raise ValueError(f"the model is {given}: give an nn.Module that has MixedOps")
        if task is not None and not isinstance(task, Task):
            raise ValueError(f"task={task!r} must be an instance of Task, such as Classification(10)")
        for name, clip in (("weight_clip", weight_clip), ("architecture_clip", architecture_clip)):
            if clip is not None:
                positive(name, clip)
        if isinstance(getattr(model, "_orig_mod", None), LightningModule):
            raise ValueError(
                "the module was given through torch.compile, which hides its hooks: compile it in place with"
                " module.compile(), or compile the candidates"
            )
        if cost is not None and not isinstance(cost, ArchitectureCost):
            raise ValueError(f'cost={cost!r} must be an ArchitectureCost, such as ArchitectureCost("macs", weight=0.1)')
        if cost is not None and not self.searches:
            raise ValueError(f"{type(self).__name__} has no choice that a cost could change: leave cost out")
        if not isinstance(offload, bool):
            raise ValueError(f"offload={offload!r} must be true or false")
        for module in model.modules():
            if isinstance(module, MixedOp):
                module.offload(offload)
        self.offloaded = OffloadedWeights(model) if offload else None
        self.space = SearchSpace(model)
        self.model = model
        if self.offloaded is not None:
            self._ddp_params_and_buffers_to_ignore = self.offloaded.names(self)
        self.task = Task() if task is None else task
        self.weight_optimizer, self.architecture_optimizer = weight_optimizer, architecture_optimizer
        self.weight_scheduler, self.architecture_scheduler = weight_scheduler, architecture_scheduler
        self.weight_clip, self.architecture_clip = weight_clip, architecture_clip
        self.clip_algorithms = {
            "weights": one_of("weight_clip_algorithm", weight_clip_algorithm, ("norm", "value")),
            "architecture": one_of("architecture_clip_algorithm", architecture_clip_algorithm, ("norm", "value")),
        }
        self.accumulate = accumulate
        self._group: WeightGroup | None = None  # of the weight step that is running
        self._held = MicroBatches()  # for the architecture step to come
        self.warmup_epochs, self.max_bad_steps, self.seed = warmup_epochs, max_bad_steps, seed
        self.which: Which = one_of("which", which or self.selects, ("argmax", "process_best"))
        self.generator = torch.Generator().manual_seed(seed)
        self.mask: Tensor
        self.register_buffer("mask", self.space.mask, persistent=False)
        # Equal θ say nothing about order: ties of the reported arg max are broken by the seed, not by index.
        tie_breaker = torch.rand(self.mask.shape, generator=torch.Generator().manual_seed(seed))
        self.tie_breaker: Tensor
        self.register_buffer("tie_breaker", tie_breaker, persistent=False)
        self.best_loss: Tensor
        self.register_buffer("best_loss", torch.tensor(torch.inf))
        self.best_choice: Tensor  # [E]
        self.register_buffer("best_choice", torch.full((len(self.space),), -1))
        self.weight_steps = self.architecture_steps = self.skipped_weight_steps = 0
        self.bad_steps = {"weight": 0, "architecture": 0}  # in all
        self._bad_in_a_row = dict(self.bad_steps)
        self._losses: dict[str, tuple[Tensor, int]] = {}  # summed over the running epoch
        self._buffer_places: list[tuple[nn.Module, str]] | None = None  # found once, at the first step
        self._to_restore: dict[str, Any] = {}  # of a checkpoint, when training starts
        self._unfinished: UnfinishedEpoch | None = None
        self._loader: SearchLoader | None = None
        self.between_batches: Callable[[], None] | None = None  # called when no step is half done
        self.configure_architecture()
        self.cost = cost
        if cost is not None:
            cost.attach(self)
        if task is None and type(self).loss is SearchStrategy.loss:
            from advnas_lightning.strategies import adopted  # which builds on this module

            if adopted.is_trainable(model):
                adopted.adopt(self)

    # -- what a strategy defines ---------------------------------------------------------------------------------------

    def configure_architecture(self) -> None:
        """Create the architecture parameters: θ, one padded row per edge, at ones."""
        self.theta = nn.Parameter(torch.ones(self.mask.shape))  # [E, J]

    def sample(self) -> Architecture:
        """Draw the architecture of an architecture step."""
        raise NotImplementedError

    def sample_for_weights(self) -> Architecture:
        """Draw the architecture of a weight step; by default as in an architecture step."""
        return self.sample()

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor | None:
        """The gradient of the loss in θ, ``[E, J]``, to be descended; ``None`` to leave θ for now."""
        raise NotImplementedError

    def after_theta_step(self, trials: Sequence[Trial], before: Tensor) -> None:
        """Called after the θ optimizer's step with θ as it was, ``[E, J]``."""

    @property
    def cost_weights(self) -> Tensor:
        """The share of each candidate in an architecture's expected cost, ``[E, J]``: p."""
        return self.probs

    def cost_gradient(self, slope: Tensor) -> Tensor:
        """∇θ Σ_i ⟨p_i, c_i⟩ for costs c = ``slope``, ``[E, J]``."""
        return functional.through_softmax(self.probs, slope)

    # -- what most strategies need -------------------------------------------------------------------------------------

    @property
    def log_probs(self) -> Tensor:
        """The logarithm of p, ``[E, J]``; −∞ where an edge has no such candidate."""
        return functional.log_probs(self.theta, self.mask)

    @property
    def probs(self) -> Tensor:
        """p_i = softmax(θ_i), ``[E, J]``, without a graph."""
        return self.log_probs.detach().exp()

    @property
    def entropy(self) -> Tensor:
        """(1/E) Σ_i H(p_i) in nats, scalar (Appendix H)."""
        return functional.entropy(self.log_probs.detach())

    def draw(self) -> list[int]:
        """Draw a ~ p: one candidate index per edge."""
        probs = self.probs.cpu()
        if probs.isnan().any():
            raise ValueError(
                "θ is not finite any more, because a loss was not: lower a learning rate, or clip gradients"
            )
        return torch.multinomial(probs, 1, generator=self.generator).squeeze(1).tolist()

    def one_hot(self, choice: Sequence[int]) -> Architecture:
        """The architecture that runs ``choice`` alone."""
        return self.space.one_hot(choice, like=self.tie_breaker)

    def mixture(self, gates: Tensor) -> Architecture:
        """The dense architecture with ``gates`` ``[E, J]``, through which a gradient may flow back to θ."""
        return Architecture(gates.detach(), self.space.all_paths, relaxed=gates)

    def pull_back(self, trial: Trial) -> Tensor:
        """∂L/∂θ through a draw that has a graph to θ, ``[E, J]``."""
        assert trial.architecture.relaxed is not None
        (gradient,) = torch.autograd.grad(trial.architecture.relaxed, self.theta, trial.gate_grad)
        return gradient

    def most_probable(self) -> list[int]:
        """The arg max_j θ_ij per edge; ties are broken by ``seed``."""
        return functional.argmax(self.theta.detach(), self.mask, self.tie_breaker)

    def argmax_choice(self) -> list[int]:
        """The most probable architecture, of those within the budget where the cost has one."""
        choice = self.most_probable()
        return choice if self.cost is None else self.cost.within(choice, self.log_probs.detach())

    # -- what a user calls ---------------------------------------------------------------------------------------------

    def loss(self, batch: Any) -> Tensor | Outcome:
        """The mean loss of the network with the bound architecture; by default the task's."""
        outcome: Outcome = self.task(self.model, batch)
        return outcome

    def forward(self, *inputs: Any) -> Any:
        """The network with the selected architecture and the shared weights."""
        with self.space.bind(self.one_hot(self.selected_choice())):
            return self.model(*inputs)

    def genotype(self, which: Which = "argmax") -> Genotype:
        """The found architecture.

        Args:
            which: ``"argmax"``: arg max θ_i per edge; ``"process_best"``: the one-hot architecture with the lowest
                single minibatch loss of an architecture step so far; both within the budget of a cost that has one.

        Raises:
            ValueError: another ``which``, or ``"process_best"`` of a search that has evaluated no one-hot architecture.
        """
        if one_of("which", which, ("argmax", "process_best")) == "argmax":
            return self.space.genotype(self.argmax_choice())
        if self.process_best is None:
            raise ValueError(
                "there is no process_best: no architecture step has evaluated a one-hot; use which='argmax'"
            )
        return self.process_best

    def probabilities(self) -> Probabilities:
        """The p_ij of every edge's candidates: a table when printed."""
        rows = self.probs.cpu().tolist()
        return Probabilities(
            (edge, dict(zip(names, row, strict=False)))  # a row is padded
            for edge, names, row in zip(self.space.edges, self.space.candidates, rows, strict=True)
        )

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Let the network run the arg max where nothing else is bound: in hooks, say."""
        if self.space.is_bound:
            yield
        else:
            with self.space.bind(self.one_hot(self.most_probable())):  # a budget would be too slow for every hook
                yield

    def derive(self) -> nn.Module:
        """The selected architecture as a plain network with the shared weights: no MixedOp."""
        return self.genotype(self.selected).apply(self.model)

    @property
    def process_best(self) -> Genotype | None:
        """The process-best genotype, or ``None`` where no architecture step evaluated a one-hot architecture."""
        choice = self.best_choice.tolist()
        return None if min(choice) < 0 else self.space.genotype(choice)

    @property
    def selected(self) -> Which:
        """The kind of genotype this search ends with: its ``which``, or argmax while there is no process-best."""
        return "argmax" if self.process_best is None else self.which

    def selected_choice(self) -> Sequence[int]:
        """The selected architecture's candidate per edge."""
        return self.space.choice(self.genotype(self.selected))

    # -- the two steps -------------------------------------------------------------------------------------------------

    @property
    def searching(self) -> bool:
        """Whether θ moves in the current epoch."""
        return self.searches and self.current_epoch >= self.warmup_epochs

    @property
    def trains_weights(self) -> bool:
        """Whether there is an optimizer for the weights."""
        return self.weight_optimizer is not None

    @property
    def progress(self) -> float:
        """The share of the planned architecture steps that is done, from 0 to exactly 1.

        Raises:
            MisconfigurationException: the trainer does not say how many epochs there are.
        """
        trainer = self.trainer
        if trainer.max_epochs is None or trainer.max_epochs < 0 or trainer.num_training_batches == float("inf"):
            raise MisconfigurationException(
                f"{type(self).__name__} anneals its temperature over the search: set Trainer(max_epochs=…), and"
                " limit_train_batches for loaders without a length"
            )
        assert self._loader is not None
        each = -(-self._loader.architecture_steps(int(trainer.num_training_batches)) // self.accumulate)
        planned = max(trainer.max_epochs - self.warmup_epochs, 0) * each
        return min(self.architecture_steps / planned, 1.0) if planned else 1.0

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """A weight step on ``batch["weights"]`` and an architecture step on ``batch["architecture"]``, as given."""
        is_last = self.trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        if "weights" in batch and self.trains_weights:
            self.weight_step(batch["weights"])
        if is_last and self._group is not None:
            self._end_weight_step(lambda: None)
        if "architecture" in batch:
            self._held.append(batch["architecture"])
        if len(self._held) == self.accumulate or (is_last and self._held):
            parts, self._held = self._held, MicroBatches()
            with suppress(SkippedStep):
                self.architecture_step(parts if self.accumulate > 1 else parts[0])
        # When Lightning steps its own: with the last batch, so that a validation already sees the epoch's end
        if self.is_between_steps:
            self._step_schedules("step", batch_idx)
        if is_last:
            self._step_schedules("epoch", self.current_epoch, plateau=False)

    def weight_step(self, batch: Any) -> None:
        """Descend ∇w L(a, w) with the gates of :meth:`sample_for_weights`; with ``accumulate``, at the last batch."""
        optimizer = self._optimizer("weights") if "weights" in self._roles else None  # the network may have none
        if self._group is None:
            with torch.no_grad(), self._full_precision():
                self._group = WeightGroup(self.sample_for_weights())
        group = self._group
        group.batches += 1

        def differentiate() -> Tensor:
            with self.space.bind(group.architecture):
                outcome = self.outcome(batch)
                if not self._is_good("weight", outcome.loss):
                    raise SkippedStep
                self.task.update_training(outcome)
                self._note_loss("train/loss", outcome.loss.detach(), outcome.size)
                if optimizer is None or not outcome.loss.requires_grad:
                    if optimizer is not None and self._has_weights_outside_edges():
                        raise self._no_graph()
                    self.skipped_weight_steps += 1  # only candidates without parameters were drawn
                    raise SkippedStep
                if group.size == 0:
                    self.zero_weight_gradients(optimizer)
                group.size += outcome.size
                self.manual_backward(outcome.loss if self.accumulate == 1 else outcome.size * outcome.loss)
                if self.offloaded is not None and self.trainer.world_size > 1:
                    self.offloaded.average(self)
            return outcome.loss

        if group.batches == self.accumulate:
            self._end_weight_step(differentiate)
        elif not group.is_lost:
            try:
                differentiate()
            except SkippedStep:
                group.is_lost = True

    def _end_weight_step(self, differentiate: Callable[[], Tensor | None]) -> None:
        assert self._group is not None
        group, self._group = self._group, None
        if group.is_lost:
            return

        def finish() -> Tensor | None:
            loss = differentiate()
            if self.accumulate > 1:
                size = torch.tensor(float(group.size), device=self.device)
                group.take_mean(self.model.parameters(), self._mean_over_ranks(size))
            return loss

        unscaling = WaitingCopies() if self.offloaded is not None and self._scaler is not None else nullcontext()
        with suppress(SkippedStep), unscaling:
            self.step_weights(self._optimizer("weights") if "weights" in self._roles else None, finish)
            self.weight_steps += 1

    def zero_weight_gradients(self, optimizer: Any) -> None:
        """Called between a weight step's forward and backward pass."""
        optimizer.zero_grad()

    def step_weights(self, optimizer: Any, differentiate: Callable[[], Tensor | None]) -> None:
        """Take both passes of a weight step, and then the optimizer's step."""
        differentiate()
        optimizer.step()

    def architecture_step(self, batch: Any) -> None:
        """Descend the strategy's estimate of ∇θ E[L]."""
        optimizer = self._optimizer("architecture")
        if self.cost is not None and not self.cost.is_measured:
            self.cost.measure(self, batch[0] if isinstance(batch, MicroBatches) else batch)
        with self._unchanged_buffers():
            trials = self.evaluate_draws(batch)
        grads = [trial.gate_grad for trial in trials if trial.gate_grad is not None]
        if not self._is_good("architecture", *(trial.loss for trial in trials), *grads):
            return
        self._track_process_best(trials)
        with self._full_precision():
            gradients = self.architecture_gradients(trials)
        self.architecture_steps += 1
        if gradients is not None:
            parameters = self.architecture_parameters()
            before = parameters[0].detach().clone()
            for parameter, gradient in zip(parameters, gradients, strict=True):
                # the precision plugin divides what it steps on by the scale
                parameter.grad = gradient if self._scaler is None else self._scaler.scale(gradient)
            if "weights" in self._roles:  # trainer.global_step then counts the weight steps alone
                self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
            else:
                optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                self.after_theta_step(trials, before)
            if self.cost is not None:
                self.cost.ascend(self.cost_weights)
        loss = torch.stack([trial.loss for trial in trials[: self.draws]]).mean()
        self._note_loss("architecture/loss", loss, trials[0].size)

    def evaluate_draws(self, batch: Any) -> list[Trial]:
        """The trials of one architecture step, all on ``batch``."""
        trials = []
        for _ in range(self.draws):
            with self._full_precision():
                architecture = self.sample()
            trials.append(self.evaluate(architecture, batch))
        return trials

    def evaluate(self, architecture: Architecture, batch: Any) -> Trial:
        """Run ``architecture`` on ``batch`` and take ∂L/∂a, and nothing else, if the strategy needs it."""
        parts = batch if isinstance(batch, MicroBatches) else [batch]
        losses, grads, sizes = zip(*(self._evaluate_once(architecture, part) for part in parts), strict=True)
        loss = self._mean_over_ranks(weighted_mean(losses, sizes))
        gate_grad = self._mean_over_ranks(weighted_mean(grads, sizes)) if self.needs_gate_grad else None
        ranks = 1 if self._trainer is None else self._trainer.world_size
        return Trial(architecture, loss, gate_grad, sum(sizes) * ranks)

    def _evaluate_once(self, architecture: Architecture, batch: Any) -> tuple[Tensor, Tensor | None, int]:
        gates = architecture.weights.detach().requires_grad_() if self.needs_gate_grad else None
        gate_grad = None
        with torch.set_grad_enabled(self.needs_gate_grad), self.space.bind(architecture, gates):
            outcome = self.outcome(batch)
            if gates is not None:
                (gate_grad,) = self.differentiate(outcome.loss, [gates]) if outcome.loss.requires_grad else [None]
                if gate_grad is None:
                    raise self._no_graph()
        return outcome.loss.detach(), gate_grad, outcome.size

    def differentiate(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """∂L/∂x for each of the inputs, ``None`` where L does not depend on it; in half precision by way of a scale."""
        if self._scaler is None:
            return list(torch.autograd.grad(loss, inputs, allow_unused=True))
        gradients = torch.autograd.grad(self._scaler.scale(loss), inputs, allow_unused=True)
        scale = self._scaler.get_scale()
        return [None if gradient is None else gradient / scale for gradient in gradients]

    @property
    def loss_name(self) -> str:
        """What computes the loss, in the words of its author."""
        return f"{type(self).__name__}.loss"

    def outcome(self, batch: Any) -> Outcome:
        """The loss of the bound network with what the metrics need."""
        result = self.loss(batch)
        loss = as_loss(result.loss if isinstance(result, Outcome) else result, self.loss_name)
        outcome = result if isinstance(result, Outcome) else self.as_outcome(loss, batch)
        if outcome.size < 1:
            raise ValueError(f"an outcome has size={outcome.size}: a loss is the mean of at least one term")
        return outcome

    def as_outcome(self, loss: Tensor, batch: Any) -> Outcome:
        """A loss that is the mean over the samples of ``batch``."""
        try:
            return Outcome(loss, extract_batch_size(batch))
        except MisconfigurationException:  # a batch without a tensor counts as one
            return Outcome(loss, 1)

    def architecture_parameters(self) -> list[nn.Parameter]:
        """What the architecture optimizer moves."""
        return [self.theta]

    def _moved_parameters(self) -> list[nn.Parameter]:
        return self.architecture_parameters() if self.searches else []

    def architecture_gradients(self, trials: Sequence[Trial]) -> list[Tensor] | None:
        """Gradients of :meth:`architecture_parameters`, or ``None`` to leave them for now."""
        gradient = self.theta_gradient(trials)
        if gradient is None:
            return None
        return [gradient if self.cost is None else gradient + self.cost_gradient(self.cost.slope)]

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin an evaluation of the discrete architecture with shared weights."""
        self.task.reset()
        fitting = self.trainer.state.fn == "fit"
        self._evaluated = self.one_hot(self.argmax_choice() if fitting else self.selected_choice())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the evaluation."""
        with self.space.bind(self._evaluated):
            self.task.update(self.outcome(batch))

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss`` and the task's metrics."""
        self._log_evaluation("val")

    def on_test_epoch_start(self) -> None:
        """Begin an evaluation of the selected architecture with shared weights."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the evaluation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log ``test/loss`` and the task's metrics."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        metrics = {f"{stage}/{name}": value.float() for name, value in self.task.compute().items()}
        if self.trainer.state.fn != "fit":
            self.log_dict(metrics)  # which also returns them to the caller of trainer.test
        elif not self.trainer.sanity_checking:
            self.log_now(metrics, prog_bar=False)

    # -- Lightning -----------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """Adds none; says what to use instead of Trainer options that cannot work, before Lightning refuses them.

        Raises:
            MisconfigurationException: the trainer is to clip or accumulate gradients.
        """
        trainer: Any = self.trainer
        if trainer.gradient_clip_val is not None or trainer.gradient_clip_algorithm is not None:
            raise MisconfigurationException(
                f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) is for automatic optimization: give the"
                " strategy weight_clip=… or architecture_clip=…, and weight_clip_algorithm=… for clipping by value"
            )
        if trainer.accumulate_grad_batches != 1:
            raise MisconfigurationException(
                f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}) is for automatic optimization:"
                f" give the strategy accumulate={trainer.accumulate_grad_batches}"
            )
        for callback in trainer.callbacks:
            refuse(callback)
        return []

    def configure_optimizers(self) -> Any:
        """One optimizer for the weights and one for the architecture, each with its schedule."""
        if self._trainer is not None:
            self._wrap_loaders()
        # A schedule may ask for trainer.estimated_stepping_batches and so load the data now: not as a resumed run will.
        to_restore, self._to_restore = self._to_restore, {}
        made = {"weights": self.weight_optimization(), "architecture": self.architecture_optimization()}
        self._to_restore = to_restore
        self._roles = [role for role, (optimizer, _) in made.items() if optimizer is not None]
        self._schedules = {role: schedules for role, (_, schedules) in made.items()}
        # Lightning keeps the schedules' state; under manual optimization they are stepped here.
        schedules = [
            {"scheduler": each.scheduler, "name": each.name} for own in self._schedules.values() for each in own
        ]
        return [made[role][0] for role in self._roles], schedules

    def weight_optimization(self) -> tuple[Optimizer | None, list[LRSchedulerConfig]]:
        """The weights' optimizer, if they have one, with its schedules."""
        parameters = list(self.model.parameters())
        return self._optimization("weights", self.weight_optimizer, self.weight_scheduler, parameters)

    def architecture_optimization(self) -> tuple[Optimizer | None, list[LRSchedulerConfig]]:
        """The architecture parameters' optimizer, if they move, with its schedules."""
        parameters = self._moved_parameters()
        return self._optimization("architecture", self.architecture_optimizer, self.architecture_scheduler, parameters)

    def _optimization(
        self,
        role: str,
        factory: OptimizerFactory | None,
        schedule: SchedulerFactory | None,
        parameters: list[nn.Parameter],
    ) -> tuple[Optimizer | None, list[LRSchedulerConfig]]:
        if factory is None or not parameters:
            return None, []
        name = "weight" if role == "weights" else role
        try:
            optimizer = factory(parameters)
        except (TypeError, ValueError) as error:
            raise MisconfigurationException(f"{name}_optimizer: {error}") from None
        if not isinstance(optimizer, Optimizer):
            raise MisconfigurationException(
                f"{name}_optimizer makes a {type(optimizer).__name__}: let it return an optimizer of what it is given"
            )
        given = {id(parameter) for parameter in parameters}
        if not any(id(parameter) in given for group in optimizer.param_groups for parameter in group["params"]):
            raise MisconfigurationException(
                f"{name}_optimizer has none of the parameters that it was given: let it take them"
            )
        if schedule is None:
            return optimizer, []
        try:
            scheduler = schedule(optimizer)
        except (TypeError, ValueError) as error:
            raise MisconfigurationException(f"{name}_scheduler: {error}") from None
        if not isinstance(scheduler, LRScheduler | ReduceLROnPlateau):
            raise MisconfigurationException(
                f"{name}_scheduler makes a {type(scheduler).__name__}: let it return a schedule of the optimizer"
            )
        plateau = isinstance(scheduler, ReduceLROnPlateau)
        monitor = "val/loss" if plateau else None
        return optimizer, [LRSchedulerConfig(scheduler, f"lr/{role}", reduce_on_plateau=plateau, monitor=monitor)]

    def _step_schedules(self, interval: str, index: int, *, plateau: bool | None = None) -> None:
        """Move on the schedules of this interval, or only those that do (not) watch for a plateau, at its end."""
        for role, schedules in self._schedules.items():
            if role == "architecture" and not self.searching:
                continue
            for schedule in schedules:
                if schedule.interval != interval or (index + 1) % schedule.frequency:
                    continue
                if plateau is not None and plateau != schedule.reduce_on_plateau:
                    continue
                metric = self.trainer.callback_metrics.get(schedule.monitor or "")
                if not schedule.reduce_on_plateau or metric is not None:
                    try:
                        self.lr_scheduler_step(schedule.scheduler, metric if schedule.reduce_on_plateau else None)
                    except ArithmeticError as error:  # a period of 0, say
                        kind = type(schedule.scheduler).__name__
                        raise MisconfigurationException(f"the schedule {kind} of the {role} fails: {error}") from None
                    continue
                known = ", ".join(self.trainer.callback_metrics)
                message = f"a {role} schedule waits for {schedule.monitor!r}, and there is only {known or 'nothing'}"
                if schedule.strict:
                    raise MisconfigurationException(message)
                rank_zero_warn(message)

    def _optimizer(self, role: str) -> Any:
        optimizers = self.optimizers()
        return optimizers[self._roles.index(role)] if isinstance(optimizers, list) else optimizers

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip this optimizer's gradient (the Trainer's clipping is for automatic optimization)."""
        clips = {"weights": self.weight_clip, "architecture": self.architecture_clip}
        for role, clip in clips.items():
            if clip is not None and role in self._roles and self._optimizer(role).optimizer is optimizer:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                if self.clip_algorithms[role] == "value":
                    nn.utils.clip_grad_value_(parameters, clip)
                else:
                    nn.utils.clip_grad_norm_(parameters, clip)

    def _wrap_loaders(self) -> None:
        """Pair whatever training loaders the trainer has with the steps they are for."""
        # Lightning has agreed to manual optimization by now; it logs, and counts steps, by what it believes in.
        self.trainer.accumulate_grad_batches = self.accumulate
        # Lightning asks its data source for the loaders later, and again whenever it reloads them.
        source = self.trainer.fit_loop._data_source
        request = source.dataloader

        def dataloader() -> SearchLoader:
            loader = SearchLoader.wrap(request())
            if self.searches and not (loader.alternate or "architecture" in loader.iterables):
                raise MisconfigurationException(
                    f'{type(self).__name__} has no batches for its architecture steps: train on {{"weights": loader,'
                    ' "architecture": loader}'
                )
            if "weights" in loader.iterables and sized_len(loader.iterables["weights"]) == 0:
                raise MisconfigurationException("the weights loader is empty: an epoch is one pass over it")
            if "weights" not in loader.iterables and self.trains_weights:
                raise MisconfigurationException(
                    f'{type(self).__name__} has no batches for its weight steps: train on {{"weights": loader,'
                    ' "architecture": loader}'
                )
            loader.searching = lambda: self.searching
            loader.between_batches = lambda: None if self.between_batches is None else self.between_batches()
            self._loader = loader
            if "loader" in self._to_restore:
                loader.go_on_from(self._to_restore.pop("loader"))
                if loader.fetches_ahead:  # right now
                    rng.restore(self._to_restore.pop("rng"))
            return loader

        source.dataloader = dataloader  # type: ignore[method-assign]

    def on_fit_start(self) -> None:
        """Let a resumed run load its data where it was, also if a schedule has had it loaded from the start."""
        if "loader" in self._to_restore:
            self.trainer.fit_loop._combined_loader = None
        if self.offloaded is not None and self.trainer.world_size > 1:
            self.offloaded.share(self)

    def on_fit_end(self) -> None:
        """Leave the trainer as it was."""
        self.trainer.accumulate_grad_batches = 1

    def on_train_start(self) -> None:
        """Continue the random numbers of a resumed run where they were, and its unfinished epoch."""
        self._buffer_places = None
        last = self.trainer.max_epochs
        if self.searches and last is not None and 0 <= last <= self.warmup_epochs and self.warmup_epochs:
            rank_zero_warn(f"θ never moves: warmup_epochs={self.warmup_epochs} leave nothing of max_epochs={last}")
        states = self._to_restore.pop("optimizer_states", [])
        for optimizer, state in zip(self.trainer.optimizers, states, strict=False):
            optimizer.load_state_dict(state)
        if "rng" in self._to_restore:  # only now: what runs before draws numbers too
            rng.restore(self._to_restore.pop("rng"))
        if "unfinished_epoch" in self._to_restore:
            self._unfinished = UnfinishedEpoch(self, self._to_restore.pop("unfinished_epoch"))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add to what is logged as an epoch's mean what was logged before the run was resumed."""
        if self._unfinished is not None:
            self._unfinished.add_logs(self)

    def on_train_epoch_end(self) -> None:
        """Log the entropy and move the schedules on."""
        self._unfinished = None
        self._log_epoch()
        self._step_schedules("epoch", self.current_epoch, plateau=True)

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint needs beside parameters and buffers."""
        return {
            "space": {edge: list(row) for edge, row in zip(self.space.edges, self.space.candidates, strict=True)},
            "steps": [self.weight_steps, self.architecture_steps, self.skipped_weight_steps],
            "bad_steps": [dict(self.bad_steps), dict(self._bad_in_a_row)],
            "generator": self.generator.get_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`get_extra_state`.

        Raises:
            ValueError: the checkpoint is of another search space.
        """
        space = {edge: list(row) for edge, row in zip(self.space.edges, self.space.candidates, strict=True)}
        if list(state["space"].items()) != list(space.items()):  # the order too: it is that of the rows of θ
            raise ValueError(f"the checkpoint's search space is {state['space']}, this model's is {space}")
        self.weight_steps, self.architecture_steps, self.skipped_weight_steps = state["steps"]
        self.bad_steps, self._bad_in_a_row = (dict(counts) for counts in state["bad_steps"])
        self.generator.set_state(state["generator"].cpu())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a run needs to go on bit for bit, also from the middle of an epoch."""
        checkpoint["search"] = {"format": CHECKPOINT_FORMAT, "strategy": type(self).__name__}
        checkpoint["rng"] = rng.collect()
        loop = self.trainer.fit_loop.epoch_loop
        progress: Any = loop.batch_progress.current
        used = None
        if progress.processed and not loop._num_ready_batches_reached():
            used = progress.processed
            checkpoint["unfinished_epoch"] = UnfinishedEpoch.collect(self)
        if self._loader is not None:
            checkpoint["loader"] = self._loader.place(used)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what is restored when training starts.

        Raises:
            ValueError: the checkpoint is of another strategy, or another version of this package.
        """
        of = checkpoint.get("search")
        if of is None:
            raise ValueError("the checkpoint is of no search of this package: name the checkpoints/last.ckpt of a run")
        if of["strategy"] != type(self).__name__:
            raise ValueError(f"the checkpoint is of {of['strategy']} search, and this is {type(self).__name__}")
        if of["format"] != CHECKPOINT_FORMAT:
            raise ValueError(
                f"the checkpoint has the format {of['format']} of another version, and this one reads"
                f" {CHECKPOINT_FORMAT}: resume with the version that wrote it"
            )
        if ("cost.weight" in checkpoint["state_dict"]) != (self.cost is not None):
            had = "no cost" if self.cost is not None else "a cost"
            raise ValueError(f"the checkpoint is of a search with {had}: go on with the settings that it had")
        if self._trainer is None or self.trainer.state.fn != "fit":  # what is evaluated does not go on
            return
        keys = ("rng", "loader", "unfinished_epoch")
        self._to_restore = {key: checkpoint[key] for key in keys if key in checkpoint}
        if self.offloaded is not None:  # an optimizer puts each part beside its weight; the trainer would move it all
            self._to_restore["optimizer_states"] = states = checkpoint.get("optimizer_states", [])
            checkpoint["optimizer_states"] = [{**state, "state": {}} for state in states]

    @property
    def is_between_steps(self) -> bool:
        """Whether no step waits for more batches."""
        return self._group is None and not self._held

    @property
    def is_resumable(self) -> bool:
        """Whether a checkpoint between the last batch and the next holds all that the next one needs."""
        return self.is_between_steps

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to a trainer."""
        return {**super().__getstate__(), "_loader": None, "between_batches": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SearchStrategy:
        """Move or convert; what is the strategy's own stays in single precision where the network is in half.

        In bfloat16 a θ of 1 would not feel the paper's learning rate of 3e-4: the next numbers are 0.996 and 1.008.
        """
        parameters = [(parameter, parameter.data) for parameter in self._moved_parameters()]
        owners: list[nn.Module] = [self] if self.cost is None else [self, self.cost]
        buffers = [(owner._buffers, name, buffer) for owner in owners for name, buffer in owner._buffers.items()]
        super()._apply(fn, recurse)
        for parameter, data in parameters:
            if parameter.dtype in HALF:
                parameter.data = data.to(parameter.device)
        for place, name, buffer in buffers:
            converted = place[name]
            if buffer is not None and converted is not None and converted.dtype in HALF:
                place[name] = buffer.to(converted.device)
        return self

    # -- inside --------------------------------------------------------------------------------------------------------

    def _no_graph(self) -> ValueError:
        return ValueError(f"{self.loss_name} gives a loss without a graph: do not detach what it is made of")

    def _has_weights_outside_edges(self) -> bool:
        edges = (module for module in self.model.modules() if isinstance(module, MixedOp))
        inside = {id(parameter) for edge in edges for parameter in edge.parameters()}
        return any(parameter.requires_grad and id(parameter) not in inside for parameter in self.model.parameters())

    def _note_loss(self, name: str, loss: Tensor, size: int) -> None:
        # self.log in every step costs more than a toy iteration, so the epoch's means are kept by hand.
        total, count = self._losses.get(name, (torch.zeros_like(loss), 0))
        self._losses[name] = (total + size * loss, count + size)
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.trainer.fit_loop.epoch_loop.batch_idx % every == 0:
            self.log(name, loss, prog_bar=True, logger=False)

    def _log_epoch(self) -> None:
        means = {name: total / count for name, (total, count) in self._losses.items()}
        self._losses.clear()
        metrics = {f"train/{name}": value.float() for name, value in self.task.take_training().items()}
        metrics |= {name: self._mean_over_ranks(mean) for name, mean in means.items()}
        if self.cost is not None and self.cost.is_measured:
            metrics |= {"cost": self.cost.expected(self.cost_weights), "cost_weight": self.cost.weight}
        self.log_now({**metrics, "entropy": self.entropy})

    def log_now(self, metrics: Mapping[str, Tensor | float], *, prog_bar: bool = True) -> None:
        """Log scalars at the number of training batches so far, and for callbacks to monitor."""
        self.log_dict(metrics, prog_bar=prog_bar, logger=False)
        # self.log would write the index of the running batch, one less, or none at all after a fit
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        values = {name: float(value) for name, value in metrics.items()}
        for logger in self.loggers:
            logger.log_metrics({**values, "epoch": self.current_epoch}, step)

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        if self._trainer is None or self._trainer.world_size == 1:
            return value
        reduced: Tensor = self._trainer.strategy.reduce(value.to(self.device), reduce_op="mean")
        return reduced.to(value.device)

    def _track_process_best(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            choice = trial.architecture.choice
            if choice is not None:
                better = trial.loss < self.best_loss  # stays on the device; false for nan
                if self.cost is not None:
                    better &= self.cost.allows(trial.architecture.weights)
                index = torch.tensor(choice, device=self.best_choice.device)
                self.best_choice = torch.where(better, index, self.best_choice)
                self.best_loss = torch.where(better, trial.loss.to(self.best_loss.dtype), self.best_loss)

    def _is_good(self, kind: str, *values: Tensor) -> bool:
        """Whether the step of this kind may happen: what it is made of is finite, on every rank.

        Raises:
            FloatingPointError: too many in a row were not.
        """
        finite = torch.stack([value.detach().isfinite().all() for value in values]).all()
        if self._mean_over_ranks(finite.float()) == 1:
            self._bad_in_a_row[kind] = 0
            return True
        self.task.forget()
        self.bad_steps[kind] += 1
        self._bad_in_a_row[kind] += 1
        if self._bad_in_a_row[kind] > self.max_bad_steps:
            raise FloatingPointError(
                f"the loss of {self._bad_in_a_row[kind]} {kind} steps in a row was not finite: lower a learning rate,"
                " or clip gradients"
            )
        if self.bad_steps[kind] == 1:
            rank_zero_warn(f"a {kind} step is left out, because its loss or gradient is not finite; so will be others")
        return False

    def _full_precision(self) -> AbstractContextManager[None]:
        """Draws and gradients of θ are computed outside the trainer's autocast."""
        kind = self.device.type
        on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        return torch.autocast(kind, enabled=False) if on else nullcontext()

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        return None if self._trainer is None else getattr(self._trainer.precision_plugin, "scaler", None)

    @contextmanager
    def _unchanged_buffers(self) -> Iterator[None]:
        """Give the model's buffers (running statistics) back the values that they had."""
        if self._buffer_places is None:
            modules = self.model.modules()
            self._buffer_places = [
                (module, name) for module in modules for name, _ in module.named_buffers(recurse=False)
            ]
        saved = [(module, name, module._buffers[name]) for module, name in self._buffer_places]
        values = [None if buffer is None else buffer.clone() for _, _, buffer in saved]
        try:
            yield
        finally:
            for (module, name, buffer), value in zip(saved, values, strict=True):
                if buffer is not None and value is not None:
                    buffer.copy_(value)
                module._buffers[name] = buffer  # also where the forward pass put another tensor there
