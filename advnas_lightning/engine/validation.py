"""What an evaluation by the objective reports, of one loader or of several."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

from advnas_lightning.objectives import Objective, Outcome
from advnas_lightning.space.search_space import Architecture


class Validation:
    """What is evaluated, and its loss and metrics; those of each loader, where there are several.

    Args:
        objective: Has the metrics.
        trainer: Gives the Trainer, or ``None`` where there is none.
        choose: Gives the architecture to evaluate, within a fit or not.
        begins: Is called when an evaluation begins.

    Example:
        >>> import torch
        >>> validation = Validation(Objective(), lambda: None, lambda fitting: None)
        >>> validation.add(Outcome(torch.tensor(1.0), 4), loader=0)
        >>> validation.add(Outcome(torch.tensor(3.0), 4), loader=1)
        >>> validation.results("val")
        {'val/loss/dataloader_idx_0': tensor(1.), 'val/loss/dataloader_idx_1': tensor(3.)}
    """

    def __init__(
        self,
        objective: Objective,
        trainer: Callable[[], Any],
        choose: Callable[..., Architecture],
        begins: Callable[[], None] = lambda: None,
    ) -> None:
        self._objective, self._trainer, self._choose, self._begins = objective, trainer, choose, begins
        self._of: dict[int | None, Objective] = {}  # the metrics of each loader
        self._architecture: Architecture | None = None

    @property
    def architecture(self) -> Architecture | None:
        """What is evaluated; ``None`` while nothing is."""
        trainer = self._trainer()
        if trainer is None or not (trainer.evaluating or trainer.predicting):
            self._architecture = None
            return None
        if self._architecture is None:
            self._architecture = self._choose(fitting=trainer.state.fn == "fit")
        return self._architecture

    def begin(self) -> None:
        """Forget what was added, and choose anew."""
        self._of.clear()
        self._objective.reset()
        self._architecture = None
        self._begins()

    def add(self, outcome: Outcome, loader: int | None = None) -> None:
        """Add one batch to the means of its loader.

        Args:
            outcome: Its loss, and what the metrics need.
            loader: Which loader it is of, where there are several.
        """
        if loader not in self._of:
            self._of[loader] = copy.deepcopy(self._objective) if self._of else self._objective
            self._of[loader].reset()
        self._of[loader].update(outcome)

    def results(self, stage: str) -> dict[str, Tensor]:
        """The loss and the metrics by name, as Lightning names what is logged of several loaders; none without a batch.

        Args:
            stage: What the names begin with.
        """
        found = {
            f"{stage}/{name}" + ("" if loader is None else f"/dataloader_idx_{loader}"): value.float()
            for loader, objective in self._of.items()
            for name, value in objective.compute().items()
        }
        self._of.clear()
        return found
