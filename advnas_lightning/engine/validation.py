"""What an evaluation by the objective reports, of one loader or of several."""

from __future__ import annotations

import copy

from torch import Tensor

from advnas_lightning.objectives import Objective, Outcome


class Validation:
    """The loss and the metrics of one evaluation; of each loader, where there are several.

    Args:
        objective: Has the metrics.

    Example:
        >>> import torch
        >>> validation = Validation(Objective())
        >>> validation.add(Outcome(torch.tensor(1.0), 4), loader=0)
        >>> validation.add(Outcome(torch.tensor(3.0), 4), loader=1)
        >>> validation.results("val")
        {'val/loss/dataloader_idx_0': tensor(1.), 'val/loss/dataloader_idx_1': tensor(3.)}
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._of: dict[int | None, Objective] = {}  # the metrics of each loader

    def begin(self) -> None:
        """Forget what was added."""
        self._of.clear()
        self._objective.reset()

    def add(self, outcome: Outcome, loader: int | None = None) -> None:
        """Add a batch.

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
