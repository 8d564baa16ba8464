"""The optimizer of one kind of step, with its schedules and its clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from advnas_lightning.engine.schedules import SchedulerFactory, read_schedule
from advnas_lightning.space.mixed_op import mixed_ops
from advnas_lightning.validate import check_factory, check_one_of, check_positive

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
ClipAlgorithm = Literal["norm", "value"]


class Optimization:
    """How one kind of step moves its parameters.

    Args:
        role: ``"weights"`` or ``"architecture"``.
        factory: Makes the optimizer of some parameters; without one they do not move.
        schedule: Makes the optimizer's schedule, or Lightning's dictionary with one.
        clip: The largest norm of the gradient, or the largest absolute value in it; ``None`` leaves gradients alone.
        clip_algorithm: ``"norm"`` or ``"value"``.

    Attributes:
        made: The optimizer, as the factory made it; ``None`` where there is none.
        schedules: The schedules of it.

    Raises:
        ValueError: A bad argument.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> optimization = Optimization("weights", partial(torch.optim.SGD, lr=0.1), clip=1.0)
        >>> optimization.make([nn.Parameter(torch.zeros(2))])
        >>> optimization.made.param_groups[0]["lr"]
        0.1
    """

    def __init__(
        self,
        role: Literal["weights", "architecture"],
        factory: OptimizerFactory | None,
        schedule: SchedulerFactory | None = None,
        clip: float | None = None,
        clip_algorithm: ClipAlgorithm = "norm",
    ) -> None:
        self.role = role
        self._name = "weight" if role == "weights" else role  # in the names of the arguments
        self.factory = check_factory(f"{self._name}_optimizer", factory)
        self.schedule = check_factory(f"{self._name}_scheduler", schedule)
        self.clip = clip if clip is None else check_positive(f"{self._name}_clip", clip)
        self.clip_algorithm = check_one_of(f"{self._name}_clip_algorithm", clip_algorithm, ("norm", "value"))
        self.made: Optimizer | None = None
        self.schedules: list[LRSchedulerConfig] = []
        self._optimizers: Callable[[], Any] | None = None
        self._place = 0

    def make(self, parameters: list[nn.Parameter]) -> None:
        """Make the optimizer of these parameters, and its schedule.

        Raises:
            MisconfigurationException: A factory fails, or makes something else.
        """
        self.made, self.schedules = None, []
        if self.factory is None or not parameters:
            return
        self.made = _made(f"{self._name}_optimizer", self.factory, parameters)
        if not isinstance(self.made, Optimizer):
            raise MisconfigurationException(
                f"{self._name}_optimizer makes a {type(self.made).__name__}: let it return an optimizer of what it is"
                " given"
            )
        given = {id(parameter) for parameter in parameters}
        if not any(id(parameter) in given for group in self.made.param_groups for parameter in group["params"]):
            raise MisconfigurationException(
                f"{self._name}_optimizer has none of the parameters that it was given: let it take them"
            )
        if self.schedule is None:
            return
        name = f"{self._name}_scheduler"
        self.schedules = [read_schedule(_made(name, self.schedule, self.made), name, self.role)]

    def take(self, optimizer: Optimizer, schedules: list[LRSchedulerConfig]) -> None:
        """Use an optimizer and schedules that were made elsewhere."""
        self.made, self.schedules = optimizer, schedules

    def attach(self, optimizers: Callable[[], Any], place: int) -> None:
        """Find the optimizer in a fit.

        Args:
            optimizers: Gives all of the fit's optimizers, as ``LightningModule.optimizers`` does.
            place: The place of this one.
        """
        self._optimizers, self._place = optimizers, place

    @property
    def optimizer(self) -> Any:
        """The optimizer as Lightning has wrapped it, for ``step`` and ``zero_grad``; ``None`` where there is none."""
        if self.made is None or self._optimizers is None:
            return None
        found = self._optimizers()
        return found[self._place] if isinstance(found, list) else found

    def owns(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer is the one that steps here."""
        ours = self.optimizer
        return ours is not None and ours.optimizer is optimizer

    def clip_gradients(self, optimizer: Optimizer) -> None:
        """Clip the gradients of all parameters of the optimizer."""
        if self.clip is None:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self.clip_algorithm == "value":
            nn.utils.clip_grad_value_(parameters, self.clip)
        else:
            nn.utils.clip_grad_norm_(parameters, self.clip)

    def step_schedules(
        self,
        interval: str,
        index: int,
        metrics: Mapping[str, Tensor],
        step: Callable[[Any, Any], None],
        *,
        plateau: bool,
    ) -> None:
        """Move on the schedules of an interval that has ended.

        Args:
            interval: ``"step"`` or ``"epoch"``.
            index: The number of the batch, or of the epoch.
            metrics: What schedules may watch.
            step: Moves a schedule on, with the metric that it watches, or with ``None``.
            plateau: Whether those schedules are meant that watch for a plateau, or the others.

        Raises:
            MisconfigurationException: A metric is missing that a schedule must have, or a schedule fails.
        """
        for schedule in self.schedules:
            if schedule.interval != interval or schedule.reduce_on_plateau != plateau:
                continue
            if (index + 1) % schedule.frequency:
                continue
            metric = metrics.get(schedule.monitor or "")
            if not plateau or metric is not None:
                try:
                    step(schedule.scheduler, metric if plateau else None)
                except ArithmeticError as error:  # a period of 0, say
                    kind = type(schedule.scheduler).__name__
                    raise MisconfigurationException(f"the schedule {kind} of the {self.role} fails: {error}") from None
                continue
            known = ", ".join(metrics)
            message = f"a {self.role} schedule waits for {schedule.monitor!r}, and there is only {known or 'nothing'}"
            if schedule.strict:
                raise MisconfigurationException(message)
            rank_zero_warn(message)


def refuse_untrained(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer of the weights that was made before the choices: it has no weights of new candidates.

    An optimizer may leave out all of an edge, as one of a head alone does, if all that it has is in the network.

    Args:
        optimizer: The optimizer.
        model: The network with the choices.

    Raises:
        MisconfigurationException: A candidate would never be trained.

    Example:
        >>> import torch
        >>> from advnas_lightning import make_searchable
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> early = torch.optim.SGD(net.parameters())
        >>> _ = make_searchable(net, {"0": lambda old: {"old": old, "new": nn.Linear(2, 2)}})
        >>> refuse_untrained(torch.optim.SGD(net.parameters()), net)
        >>> refuse_untrained(early, net)
        Traceback (most recent call last):
            ...
        lightning.fabric.utilities.exceptions.MisconfigurationException: the optimizer SGD has no weight of candidate \
'new' of edge '0', which would never be trained: make it after the choices, of all parameters, or call \
requires_grad_(False) on a candidate that is to stay as it is
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    is_early = not trained <= {id(parameter) for parameter in model.parameters()}
    for op in mixed_ops(model):
        candidates = op.candidates.values()
        weights = [{id(each) for each in module.parameters() if each.requires_grad} for module in candidates]
        for name, own in zip(op.names, weights, strict=True):
            if own and own.isdisjoint(trained) and (is_early or any(not trained.isdisjoint(each) for each in weights)):
                raise MisconfigurationException(
                    f"the optimizer {type(optimizer).__name__} has no weight of candidate {name!r} of edge"
                    f" {op.name!r}, which would never be trained: make it after the choices, of all parameters, or call"
                    " requires_grad_(False) on a candidate that is to stay as it is"
                )


def _made(name: str, factory: Callable[[Any], Any], given: Any) -> Any:
    try:
        return factory(given)
    except (TypeError, ValueError) as error:
        raise MisconfigurationException(f"{name}: {error}") from None
    except IndexError as error:  # one value where there must be two, say
        if not isinstance(factory, partial):  # a mistake in the code of a factory of one's own
            raise
        options = ", ".join(f"{key}={value}" for key, value in factory.keywords.items())
        raise MisconfigurationException(f"{name}: {error}; check the lengths of its options: {options}") from None
