"""Retraining a found network: a strategy that never moves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advnas_lightning.engine.policy import Selection
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.search_space import Architecture


class Fixed(SearchStrategy):
    """Train one discrete architecture from scratch: the network is ``genotype.apply(model)``, without MixedOps.

    Args:
        model: the network of the search, with MixedOp edges and fresh weights; further arguments as in
            :class:`SearchStrategy`.
        genotype: a genotype, a mapping from edge to candidate, or a text as :meth:`Genotype.read` takes it: the path
            of a run's ``genotype.json``, JSON, or a NAS-Bench-201 cell.
        select: which genotype of that file, ``"argmax"`` or ``"process_best"``; by default the one the run selected.
        offload: changes nothing, there are no candidates left.

    Raises:
        ValueError: no genotype, an unreadable file, or a genotype that does not fit the model.
    """

    searches: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        genotype: Genotype | Mapping[str, str] | str | Path | None = None,
        select: Selection | None = None,
        offload: bool = False,
        **kwargs: Any,
    ) -> None:
        if genotype is None:
            raise ValueError("genotype=None: say what to train with strategy.genotype=PATH/genotype.json")
        self._genotype = Genotype.read(genotype, select) if isinstance(genotype, str | Path) else Genotype(genotype)
        super().__init__(model, **kwargs)

    def network_to_train(self, model: nn.Module) -> nn.Module:
        """The found network, without MixedOps."""
        return self._genotype.apply(model)

    def configure_architecture(self) -> None:
        """Nothing to learn: the choice is given."""
        self._choice = self.space.choice(self._genotype)

    @property
    def log_probs(self) -> Tensor:
        """0 for the given candidates and −∞ for all others, ``[E, J]``."""
        return self.one_hot(self._choice).gates.log()

    def derive(self) -> nn.Module:
        """The trained network itself."""
        return self.model

    def most_probable_choice(self) -> list[int]:
        """The given choice."""
        return list(self._choice)

    def get_extra_state(self) -> dict[str, Any]:
        """With the genotype: two of them may have networks of equal shapes."""
        return {**super().get_extra_state(), "genotype": dict(self._genotype)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`get_extra_state`.

        Raises:
            ValueError: the checkpoint is of another architecture.
        """
        if state.get("genotype") != self._genotype:
            raise ValueError(f"the checkpoint trains {state.get('genotype')}, not {dict(self._genotype)}")
        super().set_extra_state(state)

    @torch.no_grad()
    def sample(self) -> Architecture:
        """The given architecture."""
        return self.one_hot(self._choice)
