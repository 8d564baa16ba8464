"""What Lightning asks of a search: its optimizers, schedules, loaders, evaluations and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from lightning import Callback
from lightning.pytorch.callbacks import LearningRateFinder
from torch import Tensor, nn
from torch.optim import Optimizer

from advnas_lightning import rng
from advnas_lightning.cost.budget import ArchitectureCost
from advnas_lightning.engine.adapter import Adapter
from advnas_lightning.engine.calibration import Calibration
from advnas_lightning.engine.clock import SearchClock
from advnas_lightning.engine.environment import Ranks, single_precision
from advnas_lightning.engine.lightning_private import attached_trainer, log_on, log_whole_steps, wrap_train_loaders
from advnas_lightning.engine.optimization import Optimization
from advnas_lightning.engine.plain import PlainModel
from advnas_lightning.engine.policy import ArchitecturePolicy
from advnas_lightning.engine.rate_finding import RateFinding
from advnas_lightning.engine.resume import Resumption, describe_space, refuse_other, refuse_other_space, refuse_past_end
from advnas_lightning.engine.settings import deciding_settings
from advnas_lightning.engine.stepping import ScheduleSteps
from advnas_lightning.engine.trace import Trace
from advnas_lightning.engine.tracking import EpochMeans, FiniteGuard
from advnas_lightning.engine.trainer_options import check_trainer_options, warn_of_long_warmup
from advnas_lightning.engine.validation import Validation
from advnas_lightning.loaders import SearchLoader
from advnas_lightning.objectives import Objective, Outcome
from advnas_lightning.space.elastic.as_before import as_before
from advnas_lightning.space.offload import OffloadedWeights
from advnas_lightning.split import with_hooks_for_each


class SearchHooks(ArchitecturePolicy):
    """The hooks of a search, in a few lines each. Its parts do the work, and :class:`SearchStrategy` makes them.

    Example:
        >>> import torch
        >>> from advnas_lightning import AdvantageNAS, MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = AdvantageNAS(edge, architecture_optimizer=torch.optim.Adam)
        >>> search.searching, search.trains_weights
        (True, False)
    """

    model: nn.Module
    objective: Objective
    cost: ArchitectureCost | None
    trainee: PlainModel | Adapter
    optimizations: Mapping[str, Optimization]
    accumulate: int
    warmup_epochs: int
    weight_steps: int
    skipped_weight_steps: int
    offloaded: OffloadedWeights | None
    ranks: Ranks
    trace: Trace
    means: EpochMeans
    guard: FiniteGuard
    between_batches: Callable[[], None] | None = None  # is called between two batches when no step is half done
    _resumption: Resumption
    schedule_steps: ScheduleSteps
    rate_finding: RateFinding | None = None
    _validation: Validation
    calibration: Calibration
    _loader: SearchLoader | None = None

    def outcome(self, batch: Any) -> Outcome:
        """The loss of the bound network, with what the metrics need."""
        raise NotImplementedError

    def bound(self) -> AbstractContextManager[None]:
        """A context in which the network has an architecture."""
        raise NotImplementedError

    @property
    def is_between_steps(self) -> bool:
        """Whether no accumulated step is half done."""
        raise NotImplementedError

    # -- the clock -----------------------------------------------------------------------------------------------------

    @property
    def searching(self) -> bool:
        """Whether θ moves in the current epoch."""
        return self.searches_in(self.current_epoch)

    def searches_in(self, epoch: int) -> bool:
        """Whether θ moves in an epoch."""
        is_finding = self.rate_finding is not None and self.rate_finding.is_running
        return self.searches and epoch >= self.warmup_epochs and not is_finding

    @property
    def trains_weights(self) -> bool:
        """Whether there is an optimizer for the weights."""
        return self.trainee.trains(self.optimizations["weights"])

    def set_clock(self, *, stepped: bool = False, **changes: Any) -> None:
        """Tell the strategy where the search is.

        Args:
            stepped: Whether the current batch has completed an architecture step.
            changes: What has changed in the clock.
        """
        clock = replace(self.clock, searching=self.searching, **changes)
        epochs, batches = self.trainer.max_epochs, self.trainer.num_training_batches
        progress = None
        if epochs is not None and epochs >= 0 and batches != float("inf") and self._loader is not None:
            # Counted from the epochs, because a run may go on with other batches, and so with other steps in an epoch.
            steps = self._loader.architecture_steps
            each, with_this = (-(-steps(count) // self.accumulate) for count in (int(batches), clock.batch_idx + 1))
            before_this = steps(clock.batch_idx) // self.accumulate
            planned = max(epochs - self.warmup_epochs, 0) * each
            done = (self.current_epoch - self.warmup_epochs) * each + (with_this if stepped else before_this)
            progress = min(max(done, 0) / planned, 1.0) if planned else 1.0
        self.clock = replace(clock, progress=progress)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin an evaluation of the discrete architecture with shared weights."""
        self._validation.begin()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = None) -> None:
        """Add a batch to the evaluation; of several loaders each is reported."""
        with self.bound():
            self._validation.add(self.outcome(batch), dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss`` and the objective's metrics; of several loaders as ``val/loss/dataloader_idx_0``, …."""
        self._log_evaluation("val")

    def on_validation_end(self) -> None:
        """Move on the schedules that watch what was validated."""
        self.schedule_steps.after_validation()

    def on_test_epoch_start(self) -> None:
        """Begin an evaluation of the selected architecture with shared weights."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = None) -> None:
        """Add a batch to the evaluation."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log ``test/loss`` and the objective's metrics."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        metrics = self._validation.results(stage)  # none of an adapted module, which has steps and logs of its own
        if self.trainer.state.fn != "fit":
            self.log_dict(metrics, add_dataloader_idx=False)  # which also returns them to the caller of trainer.test
        elif metrics and not self.trainer.sanity_checking:
            self.log_now(metrics, prog_bar=False)

    def log_now(self, metrics: Mapping[str, Tensor | float], *, prog_bar: bool = True) -> None:
        """Log scalars at the number of training batches so far, and for callbacks to monitor."""
        self.log_dict(metrics, prog_bar=prog_bar, logger=False, add_dataloader_idx=False)  # it is in the names already
        # self.log would write the index of the running batch, one less, or none at all after a fit
        values = {name: float(value) for name, value in metrics.items()}
        for logger in self.loggers:
            logger.log_metrics({**values, "epoch": self.current_epoch}, self.clock.batches)

    def note_loss(self, name: str, loss: Tensor, size: int) -> None:
        """Count a step's loss in the epoch's mean, and show it in the progress bar now and then."""
        self.means.add(name, loss, size)
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.clock.batch_idx % every == 0:
            log_on(self, name, loss.cpu(), prog_bar=True, logger=False)  # Lightning reads it at each batch from now on

    # -- Lightning -----------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """An adapted module's callbacks; says what to use instead of Trainer options that cannot work."""
        self._validation.begin()
        self.trainer.datamodule = with_hooks_for_each(self.trainer.datamodule)  # type: ignore[attr-defined]
        own = self.trainee.configure_callbacks()
        check_trainer_options(self.trainer, own, rate=self.rate_finding is not None)
        for callback in (*self.trainer.callbacks, *own):  # type: ignore[attr-defined]
            if isinstance(callback, LearningRateFinder) and self.rate_finding is not None:
                self.rate_finding.let(callback, self)
        self.clean_hyperparameters()
        if self.trainer.state.fn == "fit":
            self.clock = SearchClock()
        return own

    def configure_optimizers(self) -> Any:
        """One optimizer for the weights and one for the architecture, each with its schedule."""
        if attached_trainer(self) is not None:
            log_whole_steps(self.trainer, self.accumulate)
            wrap_train_loaders(self.trainer, self._pair_loaders)
        # A schedule may load the data to count steps, not as a resumed run will. Groups of parameters may go by names.
        with self._resumption.paused(), as_before(self.model):
            self.trainee.make_optimizer(self.optimizations["weights"])
            self.optimizations["architecture"].make(self.architecture_parameters() if self.searches else [])
        made = [each for each in self.optimizations.values() if each.made is not None]
        for place, each in enumerate(made):
            each.attach(self.optimizers, place)
        # Lightning keeps the schedules' state; under manual optimization they are stepped here.
        schedules = [
            {"scheduler": own.scheduler, "name": own.name, "interval": own.interval, "frequency": own.frequency}
            for each in made
            for own in each.schedules
        ]
        return [each.made for each in made], schedules

    def schedules_to_move(self) -> dict[str, Callable[[Any, Any], None]]:
        """What moves a schedule on, for each role whose parameters move now."""
        # An adapted module's own way, which is an attribute of this object, is for its own schedules.
        moving: dict[str, Callable[[Any, Any], None]] = {"weights": self.lr_scheduler_step}
        return {**moving, "architecture": partial(type(self).lr_scheduler_step, self)} if self.searching else moving

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip this optimizer's gradient (the Trainer's clipping is for automatic optimization)."""
        weights, architecture = self.optimizations.values()
        if weights.owns(optimizer):
            self.trainee.before_optimizer_step(optimizer, weights)
        elif architecture.owns(optimizer):
            architecture.clip_gradients(optimizer)

    def _pair_loaders(self, loaders: Any) -> SearchLoader:
        """Pair whatever training loaders the trainer has with the steps they are for."""
        self._loader = loader = SearchLoader.wrap(loaders)
        loader.check_roles(type(self).__name__, weights=self.trains_weights, architecture=self.searches)
        # Where a run goes on between two epochs, current_epoch is still the one before while a first batch is fetched.
        epochs: Any = self.trainer.fit_loop.epoch_progress
        loader.searching = lambda: self.searches_in(epochs.current.processed)
        loader.seed = lambda: rng.mixed(self.seed, epochs.current.processed)
        loader.between_batches = lambda: None if self.between_batches is None else self.between_batches()
        loader.keeper = self.calibration
        self._resumption.restore_loader(loader)
        return loader

    def on_fit_start(self) -> None:
        """Let a resumed run load its data where it was; give all ranks the same offloaded weights."""
        self._resumption.before_loading(self.trainer)
        # Under manual optimization Lightning reads fewer of their options, and a module may read or change them.
        schedules = [own for each in self.optimizations.values() for own in each.schedules]
        self.trainer.strategy.lr_scheduler_configs = schedules
        if self.offloaded is not None and self.ranks.count > 1:
            self.offloaded.share(self.device)

    def on_fit_end(self) -> None:
        """Leave the trainer as it was."""
        self.trainer.accumulate_grad_batches = 1

    def on_train_start(self) -> None:
        """Continue a resumed run where it was."""
        warn_of_long_warmup(self.trainer, self.warmup_epochs if self.searches else 0)
        if self.cost is not None:
            self.cost.foresee(self.model, self.warmup_epochs - self.current_epoch)
        self._resumption.start(self.trainer)
        if self.rate_finding is not None:
            self.rate_finding.begin(self.trainer)

    def on_after_backward(self) -> None:
        """Average the gradients of offloaded candidates over ranks, which DDP leaves to the search."""
        if self.offloaded is not None and self.ranks.count > 1:
            self.offloaded.average(self.ranks.mean)

    def on_train_epoch_end(self) -> None:
        """Log the entropy and move the schedules on."""
        metrics = {f"train/{name}": value.float() for name, value in self.objective.pop_training_metrics().items()}
        metrics |= {name: self.ranks.mean(mean) for name, mean in self.means.take().items()}
        if self.cost is not None and self.cost.is_measured:
            metrics |= {"cost": self.cost.expected(self.expected_gates), "cost_penalty": self.cost.penalty}
        self.log_now({**metrics, "entropy": self.entropy})
        self.schedule_steps.after_epoch()

    @property
    def is_resumable(self) -> bool:
        """Whether a checkpoint saved now can be resumed exactly."""
        return self.is_between_steps

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint needs beside parameters and buffers."""
        return {
            "space": describe_space(self.space),
            "steps": [self.weight_steps, self.architecture_steps, self.skipped_weight_steps, self.clock.batches],
            "bad_steps": self.guard.state_dict(),
            "generator": self.generator.get_state(),
            "is_annealed": self.is_annealed,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` has saved.

        Raises:
            ValueError: The checkpoint is of another search space.
        """
        refuse_other_space(state, self.space)
        self.weight_steps, self.architecture_steps, self.skipped_weight_steps, batches = state["steps"]
        self.clock = SearchClock(batches=batches)
        self.guard.load_state_dict(state["bad_steps"])
        self.generator.set_state(state["generator"].cpu())
        self.is_annealed = state.get("is_annealed", False)  # older checkpoints do not say

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a run needs to go on bit for bit, also from the middle of an epoch."""
        self.add_hyperparameters(checkpoint)
        self.trainee.on_save_checkpoint(checkpoint)
        settings = deciding_settings(self, self.cost, self.optimizations)
        if self.is_annealed:
            settings["max_epochs"] = self.trainer.max_epochs
        self._resumption.collect(checkpoint, type(self).__name__, settings, self.trainer, self._loader)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what is restored when training starts.

        Raises:
            ValueError: The checkpoint is of another strategy, or another version of this package, or of a search with
                other settings.
        """
        self.trainee.on_load_checkpoint(checkpoint)
        trainer, ours = attached_trainer(self), None
        if trainer is not None and trainer.state.fn == "fit":  # what is evaluated does not go on
            ours = {**deciding_settings(self, self.cost, self.optimizations), "max_epochs": trainer.max_epochs}
        refuse_other(checkpoint, type(self).__name__, ours, has_cost=self.cost is not None)
        if ours is not None:
            refuse_past_end(checkpoint, ours["max_epochs"])
            self._resumption.remember(checkpoint, optimizers=self.offloaded is not None)

    def __getstate__(self) -> dict[str, Any]:
        """The state without objects of a trainer, so that the module can be pickled."""
        return {**super().__getstate__(), "_loader": None, "between_batches": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SearchHooks:
        """Move or convert; what is the strategy's own stays in single precision where the network is in half."""
        owners = [self, self.best] if self.cost is None else [self, self.best, self.cost]
        with single_precision(owners, self.architecture_parameters() if self.searches else []):
            super()._apply(fn, recurse)
        return self
