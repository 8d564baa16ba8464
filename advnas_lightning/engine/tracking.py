"""What a search keeps of its steps: the best architecture, how many losses were not finite, and an epoch's means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from advnas_lightning.engine.environment import Ranks
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.functional import widened
from advnas_lightning.sending import sent

KINDS = ("weight", "architecture")


class ProcessBest(nn.Module):
    """The one-hot architecture with the lowest loss of a single architecture step so far (§5).

    Args:
        edges: E, how many edges there are.

    Attributes:
        loss: Scalar; infinite before the first one. In double precision, if the losses are.
        choice: ``[E]``, the candidate of each edge; −1 before the first one.

    Example:
        >>> ProcessBest(edges=2).found is None
        True
    """

    def __init__(self, edges: int) -> None:
        super().__init__()
        self.loss: Tensor
        self.register_buffer("loss", torch.tensor(torch.inf))
        self.choice: Tensor
        self.register_buffer("choice", torch.full((edges,), -1))

    @property
    def found(self) -> list[int] | None:
        """The candidate of each edge, or ``None`` where no one-hot architecture was evaluated."""
        choice: list[int] = self.choice.tolist()
        return None if min(choice) < 0 else choice

    def see(self, trials: Iterable[Trial], allows: Iterable[Callable[[Tensor], Tensor]] = ()) -> None:
        """Take the best of some trials, if it is better than the best so far. This asks nothing of the device.

        Args:
            trials: The trials of one architecture step.
            allows: Each tells whether gates ``[E, J]`` are those of an architecture that may be chosen, scalar bool.
        """
        for trial in trials:
            choice = trial.architecture.choice
            if choice is not None:
                better = trial.loss < self.loss  # false for nan
                for allowed in allows:
                    better &= allowed(trial.architecture.gates)
                index = sent(torch.tensor(choice), self.choice.device)
                self.choice = torch.where(better, index, self.choice)
                self.loss = torch.where(better, trial.loss, self.loss)  # in the wider of their types

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        widen_buffers(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class FiniteGuard:
    """Leaves out steps whose loss or gradient is not finite, and ends the run after too many in a row.

    Args:
        most: How many steps of a kind in a row may be left out.
        ranks: A step is left out on all ranks alike.
        after_bad: Called when a step is left out.

    Attributes:
        total: How many steps were left out, by their kind.

    Example:
        >>> guard = FiniteGuard(1, Ranks())
        >>> guard.passes("weight", torch.tensor(0.5)), guard.passes("weight", torch.tensor(torch.nan))
        (True, False)
    """

    def __init__(self, most: int, ranks: Ranks, after_bad: Callable[[], None] = lambda: None) -> None:
        self.most = most
        self.total = dict.fromkeys(KINDS, 0)
        self._in_a_row = dict.fromkeys(KINDS, 0)
        self._ranks, self._after_bad = ranks, after_bad

    def passes(self, kind: str, *values: Tensor, is_last: bool = True) -> bool:
        """Whether a step may happen: all that it is made of is finite, on every rank.

        Args:
            kind: The kind of the step.
            values: What it is made of.
            is_last: Whether these are all values of the step, or the last of them.

        Raises:
            FloatingPointError: Too many steps of this kind in a row were left out.
        """
        finite = torch.stack([value.detach().isfinite().all() for value in values]).all()
        if self._ranks.mean(finite.float()) == 1:
            if is_last:
                self._in_a_row[kind] = 0
            return True
        self._after_bad()
        self.total[kind] += 1
        self._in_a_row[kind] += 1
        if self._in_a_row[kind] > self.most:
            raise FloatingPointError(
                f"the loss of {self._in_a_row[kind]} {kind} steps in a row was not finite: lower a learning rate,"
                " clip gradients, or look for NaN in the data"
            )
        if self.total[kind] == 1:
            article = "an" if kind == "architecture" else "a"
            rank_zero_warn(
                f"{article} {kind} step is left out, because its loss or gradient is not finite; so will be others"
            )
        return False

    def state_dict(self) -> dict[str, Any]:
        """The counts, in what ``torch.load(weights_only=True)`` reads."""
        return {"total": dict(self.total), "in_a_row": dict(self._in_a_row)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counts of :meth:`state_dict`."""
        self.total, self._in_a_row = dict(state["total"]), dict(state["in_a_row"])


class EpochMeans:
    """Means over the running epoch, kept by hand: ``self.log`` in every step costs more than a step of the toy task.

    Example:
        >>> means = EpochMeans()
        >>> means.add("loss", torch.tensor(1.0), 3)
        >>> means.add("loss", torch.tensor(5.0), 1)
        >>> means.take()
        {'loss': tensor(2.)}
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, name: str, mean: Tensor, size: int) -> None:
        """Add the mean of ``size`` terms, in single precision at least."""
        mean = widened(mean)
        total, count = self._sums.get(name, (torch.zeros_like(mean), 0))
        self._sums[name] = (total + size * mean, count + size)

    def take(self) -> dict[str, Tensor]:
        """The means, and begin anew."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {name: [total.clone(), count] for name, (total, count) in self._sums.items()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore the sums of :meth:`state_dict`."""
        self._sums = {name: (total.to(device), count) for name, (total, count) in state.items()}


def widen_buffers(module: nn.Module, state: dict[str, Any], prefix: str = "") -> None:
    """Give a module's own buffers the types that they are loaded from, where those are wider.

    Losses in double precision make buffers wider in the course of a run, and loading copies into what there is.

    Args:
        module: The module that is about to be loaded.
        state: The state dict.
        prefix: What stands before the buffers' names in it.

    Example:
        >>> best = ProcessBest(edges=2)
        >>> widen_buffers(best, {"loss": torch.tensor(0.5, dtype=torch.float64)})
        >>> best.loss.dtype
        torch.float64
    """
    for name, buffer in module.named_buffers(recurse=False):
        saved = state.get(prefix + name)
        if isinstance(saved, Tensor):
            setattr(module, name, buffer.to(torch.promote_types(buffer.dtype, saved.dtype)))


def finite_parts(trials: Sequence[Trial]) -> list[Tensor]:
    """All that must be finite for a step on these trials."""
    return [*(trial.loss for trial in trials), *(trial.gate_grad for trial in trials if trial.gate_grad is not None)]
