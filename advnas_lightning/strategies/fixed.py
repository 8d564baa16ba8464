"""The strategy Fixed, which trains a found network and searches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.search_space import Architecture

Found = Literal["argmax", "process_best", "ranked", "refined"]


class Fixed(SearchStrategy):
    """Trains one discrete architecture from scratch: the network is ``genotype.apply(model)``, without MixedOps.

    Args:
        model: The network of the search, with MixedOp edges and fresh weights. The further arguments are those of
            :class:`SearchStrategy`.
        genotype: A genotype, a mapping from edge to candidate, or a text that :meth:`Genotype.read` takes: the path of
            a run or of its ``genotype.json``, JSON, or a NAS-Bench-201 cell.
        select: The genotype of that run to train: ``"argmax"``, ``"process_best"``, ``"ranked"`` or ``"refined"``. By
            default it is the one that the run selected.
        offload: This changes nothing, since there are no candidates left.
        calibrate: This changes nothing, since the running statistics are those of one network.

    Raises:
        ValueError: There is no genotype, its file is unreadable, or it does not fit the model.

    Example:
        >>> from advnas_lightning import MixedOp
        >>> net = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}))
        >>> Fixed(net, genotype={"edge": "skip"}).model
        Sequential(
          (0): Identity()
        )
    """

    searches: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        genotype: Genotype | Mapping[str, str] | str | Path | None = None,
        select: Found | None = None,
        offload: bool = False,
        calibrate: int = 0,
        **kwargs: Any,
    ) -> None:
        if genotype is None:
            raise ValueError("genotype=None: say what to train with strategy.genotype=RUN")
        self._genotype = Genotype.read(genotype, select) if isinstance(genotype, str | Path) else Genotype(genotype)
        super().__init__(model, calibrate=0, **kwargs)

    def network_to_train(self, model: nn.Module) -> nn.Module:
        """The found network, which has no MixedOps."""
        return self._genotype.apply(model)

    def configure_architecture(self) -> None:
        """Keep the given choice; there are no architecture parameters."""
        self._choice = self.space.choice(self._genotype)

    @property
    def log_probs(self) -> Tensor:
        """0 for the given candidates and −∞ for all others, ``[E, J]``."""
        return self.one_hot(self._choice).gates.log()

    def derive(self, batches: Any = None, *, genotype: Mapping[str, str] | None = None) -> nn.Module:
        """The trained network itself.

        Raises:
            ValueError: Another architecture is asked for.
        """
        if genotype is not None and Genotype(genotype) != self._genotype:
            raise ValueError(f"genotype={dict(genotype)}: {type(self).__name__} has one architecture: leave it out")
        return self.model

    def most_probable_choice(self) -> list[int]:
        """The choice that was given."""
        return list(self._choice)

    def get_extra_state(self) -> dict[str, Any]:
        """The state with the genotype, since two genotypes may have networks of equal shapes."""
        return {**super().get_extra_state(), "genotype": dict(self._genotype)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state that :meth:`get_extra_state` returned.

        Raises:
            ValueError: The checkpoint is of another architecture.
        """
        if state.get("genotype") != self._genotype:
            raise ValueError(f"the checkpoint trains {state.get('genotype')}, not {dict(self._genotype)}")
        super().set_extra_state(state)

    def sample(self) -> Architecture:
        """The architecture that was given."""
        return self.one_hot(self._choice)
