"""The LightningModule that all strategies share: it takes the two steps of a search, by manual optimization."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from operator import attrgetter
from typing import Any, Literal

from torch import Tensor, nn

from advnas_lightning.cost.budget import ArchitectureCost, check_cost
from advnas_lightning.engine.accumulation import MicroBatches, WaitingBatches
from advnas_lightning.engine.adapter import Adapter, is_trainable
from advnas_lightning.engine.beta_decay import BetaDecay
from advnas_lightning.engine.calibration import DEFAULT, Calibration
from advnas_lightning.engine.distillation import Distillation, Lesson, check_teacher
from advnas_lightning.engine.environment import Precision, Ranks
from advnas_lightning.engine.evaluation import Evaluator, SkippedStep, Trial, as_outcome
from advnas_lightning.engine.found import FoundNetwork
from advnas_lightning.engine.hooks import SearchHooks
from advnas_lightning.engine.in_place_check import InPlaceCheck
from advnas_lightning.engine.lightning_private import attached_trainer, compiled_module
from advnas_lightning.engine.optimization import ClipAlgorithm, Optimization, OptimizerFactory
from advnas_lightning.engine.own_optimizers import OwnOptimizers
from advnas_lightning.engine.padding import PaddingCheck
from advnas_lightning.engine.plain import PlainModel
from advnas_lightning.engine.policy import Selection
from advnas_lightning.engine.rate_finding import RateFinding
from advnas_lightning.engine.reach import Reach
from advnas_lightning.engine.resume import Resumption
from advnas_lightning.engine.sampling import Sampling, WarmupSizes, WeightSampling
from advnas_lightning.engine.schedules import SchedulerFactory
from advnas_lightning.engine.stepping import ScheduleSteps
from advnas_lightning.engine.steps import ArchitectureStep, Term
from advnas_lightning.engine.trace import Trace
from advnas_lightning.engine.tracking import EpochMeans, FiniteGuard
from advnas_lightning.engine.trainer_options import check_model, warn_of_our_name
from advnas_lightning.engine.training_pass import TrainingPass
from advnas_lightning.engine.validation import Validation
from advnas_lightning.engine.weight_step import WeightStep
from advnas_lightning.objectives import Objective, Outcome
from advnas_lightning.other_lightning import refuse_other_package
from advnas_lightning.ranking.of_search import rank
from advnas_lightning.ranking.result import Ranking
from advnas_lightning.space.elastic.ordering import widest_first
from advnas_lightning.space.gates import without_autocast
from advnas_lightning.space.offload import OffloadedWeights
from advnas_lightning.space.search_space import Architecture, SearchSpace
from advnas_lightning.validate import check_int, check_positive


class SearchStrategy(FoundNetwork):
    """Alternates weight steps and architecture steps (Algorithm 1) by manual optimization.

    A strategy overrides :meth:`sample` (which architecture to draw) and :meth:`theta_gradient` (what came back, as a
    gradient of θ); rarely :meth:`sample_for_weights` and :meth:`after_theta_step`. A user overrides :meth:`loss`, or
    passes an ``objective``.

    An architecture step takes ∂L/∂a alone: it changes no weight, buffer, ``.grad`` or state of the weight optimizer. A
    weight step never changes θ.

    Args:
        model: A network that contains :class:`~advnas_lightning.MixedOp` edges; or a LightningModule with such a
            network, whose own steps, optimizer, schedules, hooks, metrics and logs are then used as they are (unless
            ``objective`` is given, or :meth:`loss` is overridden).
        weight_optimizer: Factory over the network's parameters; ``None`` leaves the weights as they are.
        architecture_optimizer: Factory over the architecture parameters.
        weight_scheduler: Factory over the weight optimizer; stepped at the end of each epoch. ``ReduceLROnPlateau``
            watches ``val/loss``. Lightning's dictionary can say otherwise, which
            :func:`~advnas_lightning.engine.schedules.schedule` makes: ``partial(schedule, scheduler=…,
            interval="step")``.
        architecture_scheduler: Factory over the architecture optimizer; the same in the epochs in which θ moves.
        weight_clip: The largest norm of the weight gradient, or ``None``.
        architecture_clip: The largest norm of the architecture gradient, or ``None``.
        weight_clip_algorithm: ``"norm"``, or ``"value"``: ``weight_clip`` is the largest absolute value.
        architecture_clip_algorithm: The same for ``architecture_clip``.
        accumulate: How many batches count as one in each kind of step: with the same draw, and the mean over all their
            terms. An epoch's last steps may have fewer.
        warmup_epochs: Epochs at the start in which θ stays and no architecture step happens.
        max_bad_steps: How many steps of a kind in a row may have a loss or a gate gradient that is not finite: such a
            step changes nothing and is counted; the next one ends the run. If an optimizer calls its closure more than
            once in a weight step, the loss of the first call counts.
        objective: What a batch costs and which metrics it feeds; not needed where :meth:`loss` is overridden.
        cost: What architectures cost, beside their loss.
        beta_decay: The final factor λ of β-decay, see :class:`~advnas_lightning.engine.beta_decay.BetaDecay`; 0 for
            none. It rises linearly over the search.
        offload: Keep the candidates' parameters, and the weight optimizer's state of them, in host memory (§2): only
            those of the candidates that a step runs are copied to the device, see :meth:`MixedOp.offload`.
        select: The genotype that a run selects, ``"argmax"`` or ``"process_best"``; by default the strategy's own (§5).
        sampling: What a weight step runs on its batch: ``"one"`` draw; or a ``"sandwich"`` of the widest architecture,
            the narrowest, and draws between them, whose gradients are averaged. It is for elastic sizes, see
            :class:`~advnas_lightning.engine.sampling.WeightSampling`.
        sandwich_draws: How many draws a sandwich has.
        warmup_sizes: The sizes that weight steps run in the warm-up: ``"all"``; or ``"shrinking"`` ones, first the
            widest alone and then more and more of the others.
        teacher: What the networks of weight steps learn from: ``"widest"``, the widest network of each sandwich; a
            module; or a :class:`~advnas_lightning.Distillation` of one of these.
        calibrate: The number of training batches on which running statistics, such as BatchNorm's, are computed anew
            for the architecture that is evaluated or derived, see
            :class:`~advnas_lightning.engine.calibration.Calibration`; 0 for none. The training is the same with any.
        seed: The seed of the random draws.

    Raises:
        ValueError: The model has no MixedOp, or a bad argument.
        MisconfigurationException: The model trains itself in a way that cannot be taken over, or is of the package
            ``pytorch_lightning``.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import AdvantageNAS, MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = AdvantageNAS(nn.Sequential(edge, nn.Linear(8, 2)), architecture_optimizer=Adam, seed=1)
        >>> dict(search.genotype())
        {'edge': 'linear'}
    """

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
        objective: Objective | None = None,
        cost: ArchitectureCost | None = None,
        beta_decay: float = 0.0,
        offload: bool = False,
        select: Selection | None = None,
        sampling: Sampling = "one",
        sandwich_draws: int = 2,
        warmup_sizes: WarmupSizes = "all",
        teacher: Distillation | nn.Module | Literal["widest"] | None = None,
        calibrate: int = DEFAULT,
        seed: int = 0,
    ) -> None:
        if self.searches and architecture_optimizer is None:
            raise ValueError("architecture_optimizer=None: a search needs one, such as partial(Adam, lr=3e-3)")
        if objective is not None and not isinstance(objective, Objective):
            raise ValueError(f"objective={objective!r} must be an Objective, such as Classification(10)")
        weights = Optimization("weights", weight_optimizer, weight_scheduler, weight_clip, weight_clip_algorithm)
        architecture = Optimization(
            "architecture",
            architecture_optimizer,
            architecture_scheduler,
            architecture_clip,
            architecture_clip_algorithm,
        )
        offloaded = OffloadedWeights.of(check_model(model), offload)
        space = SearchSpace(model)
        terms: list[Term] = [*check_cost(cost, space, None if self.searches else type(self).__name__)]
        if check_positive("beta_decay", beta_decay, zero=True):
            if not self.searches:
                raise ValueError(f"beta_decay={beta_decay!r}: {type(self).__name__} has no θ that moves: leave it out")
            terms.append(BetaDecay(beta_decay, len(space), partial(attrgetter("progress"), self)))
        super().__init__(space, terms=terms, select=select, seed=seed)
        self.automatic_optimization = False
        self.beta_decay = beta_decay
        self.accumulate = check_int("accumulate", accumulate, least=1)
        self.warmup_epochs = check_int("warmup_epochs", warmup_epochs, least=0)
        self.max_bad_steps = check_int("max_bad_steps", max_bad_steps, least=1)
        self.calibrate = check_int("calibrate", calibrate, least=0)
        self.model, self.cost, self.offloaded = self.network_to_train(model), cost, offloaded
        self._ddp_params_and_buffers_to_ignore = [] if offloaded is None else offloaded.names(self)
        self.objective = Objective() if objective is None else objective
        self.optimizations = {"weights": weights, "architecture": architecture}
        self.weight_steps = self.skipped_weight_steps = 0
        self.trainee: PlainModel | Adapter
        trainer = partial(attached_trainer, self)
        optimizers = OwnOptimizers(trainer, weights, architecture)
        if objective is None and type(self).loss is SearchStrategy.loss and is_trainable(self.model):
            self.trainee = Adapter(
                self.model,
                log=self.log_of_module,
                is_silent=partial(attrgetter("in_architecture_step"), self),
                bound=self.bound,
                no_trace=self.no_trace,
                optimizers=optimizers,
                leave_epoch=self.leave_epoch,
            )
            self.trainee.install(self, SearchHooks)
        else:
            if objective is None and type(self).loss is SearchStrategy.loss:
                refuse_other_package(compiled_module(self.model) or self.model, "module")
            self.trainee = PlainModel(self.model, self.objective, self.note_loss, f"{type(self).__name__}.loss")
        self.ranks, self.means = Ranks(trainer), EpochMeans()
        apart = [self.best, self.objective, *([] if cost is None else [cost])]
        keeps_something = not type(self).__module__.startswith("advnas_lightning.")  # its author may use it in loss
        root, reach = self if keeps_something else self.model, Reach(self.model)
        self.trace, trace_of_passes, trace_of_weights = (
            Trace(root, apart if keeps_something else (), reach, gradients=each) for each in (True, True, False)
        )
        precision = Precision(trainer)
        self.evaluator = Evaluator(
            space, self.outcome, self.ranks, precision, self.trace, source=self.trainee.loss_name, seed=self.step_seed
        )
        self.guard = FiniteGuard(max_bad_steps, self.ranks, self.objective.reset_carried)
        self.sampling, self.sandwich_draws, self.warmup_sizes = sampling, sandwich_draws, warmup_sizes
        orders = widest_first(self.model)
        architectures = WeightSampling(self, orders, sampling=sampling, draws=sandwich_draws, sizes=warmup_sizes)
        self.teacher = check_teacher(teacher, has_widest=sampling == "sandwich")
        is_adapted = isinstance(self.trainee, Adapter)
        self._weight_step = WeightStep(
            self,
            self.trainee,
            self.evaluator,
            weights,
            self.guard,
            accumulate,
            offload,
            sample=architectures,
            no_trace=TrainingPass(self, self.outcome, self.evaluator, trace_of_weights, self.objective).no_trace,
            lesson=None if self.teacher is None else Lesson(self.teacher, self.model, is_adapted=is_adapted),
        )
        checks = (PaddingCheck(self.model, self.evaluator, orders), InPlaceCheck(self.evaluator))
        self._architecture_step = ArchitectureStep(
            self, self.evaluator, architecture, self.guard, self.best, self.terms, checks
        )
        self._waiting = WaitingBatches(accumulate)
        self._resumption = Resumption(self, self.means)
        self.schedule_steps = ScheduleSteps(self.optimizations, trainer, self.schedules_to_move)
        self.training_pass = TrainingPass(self, self.outcome, self.evaluator, trace_of_passes, self.objective)
        no_trace, reload = self.training_pass.no_trace, self.load_training_batches
        self.calibration = Calibration(
            self.model, space, self.training_pass, no_trace, size=self.calibrate, reload=reload
        )
        self._validation = Validation(self.objective, trainer, self.evaluated_architecture, self.calibration.begin)
        if isinstance(self.trainee, Adapter):
            paused, hooks = self._resumption.paused, self.trainee.loop_hooks
            self.rate_finding = RateFinding(self.trainee.module, weights, optimizers, paused, hooks)

    # -- what a user calls or overrides --------------------------------------------------------------------------------

    def network_to_train(self, model: nn.Module) -> nn.Module:
        """The network whose weights are trained, of the model that was given: by default the model itself."""
        return model

    def loss(self, batch: Any) -> Tensor | Outcome:
        """The mean loss of the network with the bound architecture; by default the objective's, or the module's own."""
        return self.trainee.loss(batch)

    def outcome(self, batch: Any) -> Outcome:
        """The loss of the bound network, with what the metrics need."""
        return as_outcome(self.loss(batch), batch, self.trainee.loss_name)

    def rank(self, dataloaders: Any = None, *, datamodule: Any = None, **options: Any) -> Ranking:
        """Rank architectures by their losses with the shared weights, and by their probabilities; after the fit.

        Args:
            dataloaders: The validation loader, as in ``Trainer.validate``; or a list of batches; or the loaders of a
                search, of which that of its architecture steps is taken.
            datamodule: The data module, as in ``Trainer.validate``.
            options: Those of :func:`advnas_lightning.ranking.rank`, such as ``top``, ``budgets`` and ``jobs``.
        """
        return rank(self, dataloaders, datamodule=datamodule, **options)

    # -- the two steps -------------------------------------------------------------------------------------------------

    @property
    def in_architecture_step(self) -> bool:
        """Whether an architecture is being evaluated now, of which no trace is left.

        Ask it before writing to a file. The network itself can ask
        ``self.trainer.lightning_module.in_architecture_step``.
        """
        return self.evaluator.is_evaluating

    def no_trace(self) -> AbstractContextManager[None]:
        """A context after which the network, and all that it keeps, is as it was before."""
        return self.evaluator.no_trace()

    def log(self, name: str, value: Any, *arguments: Any, **options: Any) -> None:
        """Log as every LightningModule does, but nothing of an architecture step."""
        if not self.in_architecture_step:
            super().log(name, value, *arguments, **options)

    def log_of_module(self, name: str, value: Any, **options: Any) -> None:
        """Log what an adopted module logs."""
        warn_of_our_name(name, has_cost=self.cost is not None)
        self.log(name, value, **options)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Take a weight step and an architecture step, each on its batch if there is one."""
        last = self.trainer.is_last_batch
        self.set_clock(batches=self.clock.batches + 1, batch_idx=batch_idx)
        self.calibration.note_modes()
        self.trainee.begin(batch_idx)
        with self.theta_held():  # the device is asked for it once, until the architecture step moves it
            if "weights" in batch and self.trains_weights:
                self.weight_step(batch["weights"])
            if last:
                self._weight_step.flush()
            ready = self._waiting.add(batch.get("architecture"), last=last)
            if ready is not None:
                with suppress(SkippedStep):
                    self.architecture_step(ready)
                self.set_clock(stepped=True)
        self.schedule_steps.after_batch(batch_idx, whole=self.is_between_steps, last=last)
        return self.trainee.output

    def leave_epoch(self, batch_idx: int) -> None:
        """Leave the epoch before a batch, as a module's hook wants it. What waits for more batches is dropped."""
        self._weight_step.drop()
        self._waiting.drop()
        self.schedule_steps.at_left_epoch(batch_idx)

    def weight_step(self, batch: Any) -> None:
        """Descend ∇w L(a, w) with the gates of :meth:`sample_for_weights`; with ``accumulate``, at the last batch."""
        self._weight_step.take(batch)

    def architecture_step(self, batch: Any) -> None:
        """Descend the strategy's estimate of ∇θ E[L]."""
        if self.cost is not None and not self.cost.is_measured:
            self.cost.measure(self.model, self.evaluator, batch[0] if isinstance(batch, MicroBatches) else batch)
        self._architecture_step.take(batch)

    def evaluate_draws(self, batch: Any) -> list[Trial]:
        """The trials of one architecture step, all on ``batch``, by :meth:`evaluate`, which leaves no trace."""
        return [self.evaluate(self._sample(), batch) for _ in range(self.draws)]

    def _sample(self) -> Architecture:
        with without_autocast(self.device):
            return self.sample()

    def evaluate(self, architecture: Architecture, batch: Any) -> Trial:
        """Run ``architecture`` on ``batch`` and take ∂L/∂a, and nothing else, if the strategy needs it."""
        return self.evaluator.evaluate(architecture, batch, gates=self.needs_gate_grad)

    def step_architecture(self, optimizer: Any, closure: Callable[[], Tensor | None]) -> None:
        """Take the optimizer's step of an architecture step; ``trainer.global_step`` counts the weight steps alone."""
        if self.optimizations["weights"].made is None:
            optimizer.step(closure)
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, closure)

    @property
    def is_between_steps(self) -> bool:
        """Whether no accumulated step is half done."""
        return not (self._weight_step.is_half_done or self._waiting)
