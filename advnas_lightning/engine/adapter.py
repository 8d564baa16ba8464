"""Somebody's LightningModule as the thing searched: its steps, optimizer, schedules, hooks, metrics and logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from types import MethodType
from typing import Any, TypeGuard

import torch
from lightning import Callback, LightningModule
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.core.hooks import DataHooks, ModelHooks
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.optim import Optimizer

from advnas_lightning import rng
from advnas_lightning.engine.evaluation import SkippedStep, as_outcome, check_loss
from advnas_lightning.engine.lightning_private import attached_trainer, logs_as, one_step, parse_optimizers
from advnas_lightning.engine.loop_hooks import LoopHooks
from advnas_lightning.engine.optimization import Optimization, refuse_untrained
from advnas_lightning.engine.own_optimizers import OwnOptimizers
from advnas_lightning.loaders import BATCH_HOOKS, KEYS, hook_seed
from advnas_lightning.objectives import Outcome
from advnas_lightning.own_data import own_data
from advnas_lightning.space.elastic.as_before import as_before

MODEL = "model."  # before the names of the module's state in that of the search
STEPS = ("validation_step", "test_step", "predict_step")
# Called by the search itself, at their places in a weight step.
CALLED_IN_STEPS = ("on_before_zero_grad", "on_before_optimizer_step")
TRAIN_BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")
# They read gradients and run nothing. So the module sees its network without elastic sizes in them, for the names.
GRADIENT_HOOKS = ("on_after_backward", "on_before_optimizer_step", "configure_gradient_clipping")


def _public(hooks: type) -> list[str]:
    return [name for name in vars(hooks) if not name.startswith("_")]


# Methods of the search while it has a module: a Callback has none of these, or its result does not count.
METHODS = (
    *(name for name in _public(DataHooks) if name not in (*BATCH_HOOKS, "setup", "teardown")),
    *(name for name in _public(ModelHooks) if not hasattr(Callback, name)),
    "backward",
    "lr_scheduler_step",
)
LOOP_HOOKS = tuple(
    name
    for name in ("setup", "teardown", *_public(ModelHooks))
    if name not in (*METHODS, *CALLED_IN_STEPS, "on_train_batch_start")
)


def is_trainable(model: nn.Module) -> TypeGuard[LightningModule]:
    """Whether a model says itself how it is trained."""
    return isinstance(model, LightningModule) and is_overridden("training_step", model)


class Adapter:
    """Lets a search train a LightningModule as the module's own training does.

    The module's hooks are called as in its own training. Those for training batches get its own batches, which are
    those of the weight steps. What it logs in an architecture step is dropped. While its hooks run, its network is that
    of the arg max; in an evaluation it is the architecture that is evaluated.

    Args:
        module: The user's module.
        log: Logs as the search.
        is_silent: Whether what the module logs is dropped.
        bound: A context in which the network has an architecture to run.
        no_trace: A context after which the module is as it was before.
        optimizers: Which optimizers the module's methods see.
        leave_epoch: Is told of the number of a batch before which the module ends the epoch.

    Raises:
        MisconfigurationException: The module optimizes by hand, or takes the iterator of a loader.

    Example:
        >>> import torch
        >>> from advnas_lightning import AdvantageNAS, MixedOp
        >>> class Classifier(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = MixedOp("edge", {"linear": nn.Linear(8, 2), "mlp": nn.Linear(8, 2)})
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> search = AdvantageNAS(Classifier(), architecture_optimizer=torch.optim.Adam)
        >>> type(search.trainee).__name__, search.trainee.loss_name
        ('Adapter', 'Classifier.training_step')
    """

    def __init__(
        self,
        module: LightningModule,
        *,
        log: Callable[..., None],
        is_silent: Callable[[], bool],
        bound: Callable[[], AbstractContextManager[None]],
        no_trace: Callable[[], AbstractContextManager[None]],
        optimizers: OwnOptimizers,
        leave_epoch: Callable[[int], None],
    ) -> None:
        name = type(module).__name__
        _refuse_by_hand(module)
        if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
            raise MisconfigurationException(
                f"{name}.training_step takes the iterator of a loader, and a search has batches: let it take a batch"
            )
        self.module = self.model = module
        self.loss_name = f"{name}.training_step"  # what computes the loss
        self.output: Any = None  # what training_step returned in the weight step
        self.batch_idx = 0
        self._log, self._is_silent, self._bound, self._no_trace = log, is_silent, bound, no_trace
        self._optimizers, self._leave_epoch = optimizers, leave_epoch
        self._batch: Any = None  # of the training_step that is running
        self._sizes: list[tuple[Any, int | None]] = []  # what it has logged, each with the size that it says

    def install(self, search: LightningModule, base: type[LightningModule]) -> None:
        """Let the search have the module's hooks, as attributes of its own: Lightning looks there for them, too.

        Args:
            search: Gets the hooks.
            base: Has the steps of a search's own evaluations: what a module does not evaluate is not evaluated.
        """
        for name in STEPS:
            if is_overridden(name, self.module):
                setattr(search, name, self._calling(name))
            elif name in vars(base) and getattr(type(search), name) is getattr(base, name):
                setattr(search, name, partial(getattr(LightningModule, name), search))
        for name in BATCH_HOOKS:
            if is_overridden(name, self.module):
                setattr(search, name, partial(self.call_for_batches, name))
        for name in METHODS:
            if is_overridden(name, self.module):
                setattr(search, name, partial(self.call, name))
        if is_overridden("on_train_batch_start", self.module):
            search.on_train_batch_start = self.start_batch  # type: ignore[method-assign]

    def configure_callbacks(self) -> list[Callback]:
        """The module's own callbacks, and one that forwards the hooks of the loops."""
        own = self.call("configure_callbacks")
        return [*([own] if isinstance(own, Callback) else own), self.loop_hooks()]

    def loop_hooks(self) -> Callback:
        """What forwards the hooks of the loops to the module."""
        return LoopHooks({name: partial(self.call, name) for name in LOOP_HOOKS if is_overridden(name, self.module)})

    def _calling(self, step: str) -> Callable[..., Any]:
        calling = partial(self.call, step)
        calling.__wrapped__ = getattr(self.module, step)  # type: ignore[attr-defined]  # Lightning looks at its arguments
        return calling

    # -- calls ---------------------------------------------------------------------------------------------------------

    def call(self, hook: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a hook of the module. Hooks of training batches get the batch of the weight step."""
        if hook in TRAIN_BATCH_HOOKS:
            arguments = tuple(map(_own_batch, arguments))
        reads_gradients = hook in GRADIENT_HOOKS and is_overridden(hook, self.module)
        before = as_before(self.module) if reads_gradients else nullcontext()
        is_own = hook != "train_dataloader"  # by which the Trainer gets the search's data
        with self.in_hook(), before, own_data(is_own):
            return getattr(self.module, hook)(*arguments, **keywords)

    def call_for_batches(self, hook: str, batch: Any, *arguments: Any, **keywords: Any) -> Any:
        """Call a hook that changes or moves batches: while training, for the batch of each kind of step."""
        method = getattr(self.module, hook)
        with self.in_hook():
            trainer = attached_trainer(self.module)  # there is none where a loaded search is calibrated
            if trainer is None or not trainer.training:
                return method(batch, *arguments, **keywords)
            changed = {}
            for role, part in batch.items():
                with ExitStack() as own:
                    if role != "weights":
                        own.enter_context(self._no_trace())  # in which the seed is that of the step
                        own.enter_context(rng.seeded(hook_seed(torch.initial_seed(), hook)))
                    changed[role] = method(part, *arguments, **keywords)
            return changed

    def start_batch(self, batch: Any, batch_idx: int) -> int | None:
        """Call the module's hook, which may end the epoch by returning −1."""
        result: int | None = self.call("on_train_batch_start", batch, batch_idx)
        if result == -1:
            self._leave_epoch(batch_idx)
        return result

    @contextmanager
    def in_hook(self) -> Iterator[None]:
        """Let the module log as the search, and see its own optimizers and data; an architecture is bound."""
        with ExitStack() as stack:
            for module in self.module.modules():
                if isinstance(module, LightningModule):
                    stack.enter_context(self._redirected(module))
            stack.enter_context(self._bound())
            stack.enter_context(self._optimizers.shown())
            stack.enter_context(own_data())
            yield

    @contextmanager
    def _redirected(self, module: LightningModule) -> Iterator[None]:
        """Let what a module logs reach the search's log."""
        own = vars(module).get("log")  # in a copy that was made within a hook, its class's method
        if isinstance(own, _Redirection):
            yield
        elif is_overridden("log", module) and not self._is_silent():
            trainer = attached_trainer(module)  # a checkpoint may be loaded without one
            with nullcontext() if trainer is None else logs_as(module, trainer.lightning_module):
                yield
        else:
            vars(module)["log"] = _Redirection(module, self.log)
            try:
                yield
            finally:
                del vars(module)["log"]

    def log(self, name: str, value: Any, **options: Any) -> None:
        """Log as the search; a mean over the epoch is weighted by the size of the module's own batch."""
        size = options.get("batch_size")
        if self._batch is not None:
            self._sizes.append((value, size if isinstance(size, int) and size > 0 else None))
        if self._is_silent():
            return
        if self._batch is not None and size is None:
            with suppress(MisconfigurationException):  # which Lightning raises again where it needs the size
                options["batch_size"] = extract_batch_size(self._batch)
        self._log(name, value, **options)

    # -- the weight step -----------------------------------------------------------------------------------------------

    def begin(self, batch_idx: int) -> None:
        """Forget the output of the batch before, and note the number of this one."""
        self.output, self.batch_idx = None, batch_idx

    def loss(self, batch: Any) -> Outcome:
        """The loss of the module's ``training_step``.

        It is a mean over the ``batch_size=`` with which the step logs it, or all that it logs; else over the batch.

        Raises:
            ValueError: The step returns no loss.
            SkippedStep: It returned ``None``.
            MisconfigurationException: The module optimizes by hand; or it returned ``None``, and there are several
                processes.
        """
        _refuse_by_hand(self.module)  # a hook such as setup may have changed it
        unchanged = self._optimizers.unchanged() if self._is_silent() else nullcontext()
        before, self._batch, self._sizes = self._batch, batch, []
        try:
            with self.in_hook(), self._optimizers.lent(), unchanged:
                output = _call_step(self.module.training_step, batch, self.batch_idx)
        finally:
            self._batch = before
        if output is None:
            if self.module.trainer.world_size > 1:
                raise MisconfigurationException(
                    f"{self.loss_name} returned None, and with several processes each of them needs a loss: return one"
                    " that is multiplied by 0"
                )
            raise SkippedStep
        loss = check_loss(output.get("loss") if isinstance(output, Mapping) else output, self.loss_name)
        if not self._is_silent():
            detached = loss.detach()
            self.output = {**output, "loss": detached} if isinstance(output, Mapping) else detached
        own = [size for value, size in self._sizes if isinstance(value, Tensor) and value.data_ptr() == loss.data_ptr()]
        size, *others = own[:1] or {size for _, size in self._sizes if size} or [None]
        self._sizes = []  # which have the graph of the loss
        return as_outcome(loss if size is None or others else Outcome(loss, size), batch, self.loss_name)

    def note(self, outcome: Outcome) -> None:
        """The module logs its own losses and metrics."""

    def zero_gradients(self, optimizer: Any) -> None:
        """Clear the gradients as in the module's own training."""
        trainer = self.module.trainer
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_before_zero_grad(trainer, trainer.lightning_module, optimizer.optimizer)
        with self.in_hook():
            self.module.on_before_zero_grad(optimizer.optimizer)
            self.module.optimizer_zero_grad(self.module.current_epoch, self.batch_idx, optimizer.optimizer)

    def step(self, optimizer: Any, passes: Callable[[], Tensor | None]) -> None:
        """Step as in the module's own training, where the optimizer's step calls for the passes."""
        with one_step(self.module.trainer, optimizer), self.in_hook():
            self.module.optimizer_step(self.module.current_epoch, self.batch_idx, optimizer, passes)

    def before_optimizer_step(self, optimizer: Optimizer, optimization: Optimization) -> None:
        """Call the module's hook before its optimizer's step, and clip: by the module's own method, if it has one."""
        self.call("on_before_optimizer_step", optimizer)
        if is_overridden("configure_gradient_clipping", self.module):
            clip = optimization.clip
            algorithm = None if clip is None else optimization.clip_algorithm
            limits = {"gradient_clip_val": clip, "gradient_clip_algorithm": algorithm}
            self.call("configure_gradient_clipping", optimizer, **limits)
        else:
            optimization.clip_gradients(optimizer)

    def trains(self, optimization: Optimization) -> bool:
        """Whether the weights have an optimizer: the module's own, if no other."""
        return True

    def make_optimizer(self, optimization: Optimization) -> None:
        """Take the module's own optimizer and schedules, unless the search was given a factory.

        Raises:
            MisconfigurationException: There is no optimizer, or there are several; or it was made before the choices.
        """
        if optimization.factory is not None:
            optimization.make(list(self.module.parameters()))
            return
        name = f"{type(self.module).__name__}.configure_optimizers"
        overridden = is_overridden("configure_optimizers", self.module)
        configured = self.call("configure_optimizers") if overridden else None
        if configured is None:
            raise MisconfigurationException(f"{name} gives no optimizer: define it, or pass weight_optimizer=…")
        optimizers, schedules = parse_optimizers(configured)
        if len(optimizers) != 1:
            raise MisconfigurationException(
                f"{name} gives {len(optimizers)} optimizers, and a weight step has one: override weight_step(batch) in"
                " a subclass of the strategy, and give it weight_optimizer=…"
            )
        refuse_untrained(optimizers[0], self.module)
        optimization.take(optimizers[0], schedules)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the module add to a checkpoint, and change its own part of the ``state_dict``."""
        self._optimizers.complete(checkpoint)
        with _own_state(checkpoint):
            self.call("on_save_checkpoint", checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the module take out of a checkpoint what it added, and change its own part of the ``state_dict``."""
        with _own_state(checkpoint):
            self.call("on_load_checkpoint", checkpoint)


class _Redirection:
    """Stands for a module's ``log`` while a search calls the module; a copy of the module has its own again."""

    def __init__(self, module: LightningModule, log: Callable[..., None]) -> None:
        self._module, self._log = module, log

    def __call__(self, name: str, value: Any, *arguments: Any, **options: Any) -> None:
        names = ("prog_bar", "logger", "on_step", "on_epoch", "reduce_fx")  # as LightningModule.log has them, in order
        self._log(name, value, **dict(zip(names, arguments, strict=False)), **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return MethodType(type(self._module).log, memo[id(self._module)])

    def __reduce__(self) -> tuple[Any, ...]:
        return _own_log, (self._module,)


def _own_log(module: LightningModule) -> Any:
    return MethodType(type(module).log, module)


def _refuse_by_hand(module: LightningModule) -> None:
    """Refuse a module whose training step takes the steps of its optimizers itself."""
    if not module.automatic_optimization:
        raise MisconfigurationException(
            f"{type(module).__name__} optimizes by hand (automatic_optimization=False), so a search does not know what"
            " its steps are: override loss(batch), and weight_step(batch) where that is more than a step on this loss,"
            " in a subclass of the strategy, and give it weight_optimizer=…"
        )


def _call_step(step: Callable[..., Any], batch: Any, batch_idx: int) -> Any:
    """Call a training step, which need not take the number of the batch."""
    takes_index = is_param_in_hook_signature(step, "batch_idx", min_args=2)
    return step(batch, batch_idx) if takes_index else step(batch)


@contextmanager
def _own_state(checkpoint: dict[str, Any]) -> Iterator[None]:
    """A context in which the ``state_dict`` of a search's checkpoint is that of its model, under the model's names."""
    whole: dict[str, Any] = checkpoint["state_dict"]
    models = {name: value for name, value in whole.items() if name.startswith(MODEL)}
    checkpoint["state_dict"] = {name.removeprefix(MODEL): value for name, value in models.items()}
    yield
    changed = {f"{MODEL}{name}": value for name, value in checkpoint["state_dict"].items()}
    for name in models.keys() - changed.keys():
        del whole[name]
    whole.update(changed)
    checkpoint["state_dict"] = whole  # the same object: torch keeps the versions of modules as an attribute of it


def _own_batch(argument: Any) -> Any:
    """The module's own batch, of a pair of batches; any other argument as it is."""
    pair = isinstance(argument, dict) and bool(argument) and argument.keys() <= set(KEYS)
    return argument.get("weights") if pair else argument
