"""The network of one architecture in a search: what is validated, called and derived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from advnas_lightning.checkpoint_part import keep_in, kept_in
from advnas_lightning.engine.calibration import Statistics, applied
from advnas_lightning.engine.fit_state import FitState
from advnas_lightning.engine.hooks import SearchHooks
from advnas_lightning.engine.lightning_private import attached_trainer
from advnas_lightning.export.network import Exported
from advnas_lightning.export.of_search import export
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.search_space import Architecture


class FoundNetwork(SearchHooks):
    """What a search does with the network of one architecture, whose running statistics are calibrated.

    Example:
        >>> import torch
        >>> from advnas_lightning import AdvantageNAS, MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = AdvantageNAS(edge, architecture_optimizer=torch.optim.Adam, seed=1)
        >>> search.derive()
        Linear(in_features=8, out_features=8, bias=True)
    """

    _last_fit: FitState | None = None

    def forward(self, *inputs: Any) -> Any:
        """The network with the selected architecture and the shared weights.

        In ``trainer.predict`` its running statistics are calibrated. A call of your own is not: call the network of
        :meth:`derive`, or open :meth:`calibrated` around the call.
        """
        selected = self.one_hot(self.selected_choice())
        evaluates = self._validation.architecture is not None
        with self.space.bind(selected), self._calibrated(selected) if evaluates else nullcontext():
            return self.model(*inputs)

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Bind what is evaluated or the arg max, unless an architecture is bound: hooks may call the network.

        What is evaluated has running statistics of its own, see :meth:`calibrated`.
        """
        evaluated = self._validation.architecture
        if self.space.is_bound:
            yield
        elif evaluated is None:
            with self.space.bind(self.one_hot(self.most_probable_choice())):  # a budget takes too long for every hook
                yield
        else:
            with self.space.bind(evaluated), self._calibrated(evaluated):
                yield

    def _calibrated(self, architecture: Architecture) -> AbstractContextManager[None]:
        trainer = attached_trainer(self)  # a fit has no batches before its first one, and needs no warning
        return self.calibration.evaluating(architecture, warns=trainer is None or trainer.state.fn != "fit")

    def fit_state(self) -> FitState | None:
        """How far the last fit has come, or that of the checkpoint that was loaded; ``None`` if there is none."""
        trainer = attached_trainer(self)
        if trainer is None or not trainer.fit_loop.epoch_progress.total.ready:
            return self._last_fit
        return FitState.of(trainer)

    def on_fit_end(self) -> None:
        """Remember how far the fit has come: other Trainers may evaluate the search later."""
        super().on_fit_end()
        self._last_fit = FitState.of(self.trainer)

    def load_training_batches(self) -> None:
        """Load the newest training batches again, where a search was resumed after its last epoch."""
        if self._loader is not None:
            self._loader.load_last()

    @contextmanager
    def calibrated(self, architecture: Architecture, batches: Any = None) -> Iterator[None]:
        """A context in which the network runs an architecture with running statistics of its own.

        It takes one forward pass for each batch when it begins, as :meth:`calibrated_statistics` does.

        Args:
            architecture: What to run, such as ``search.one_hot(search.space.choice(genotype))``.
            batches: Training batches as a loader gives them, in a list or a loader; by default those that were kept.
        """
        statistics = self.calibrated_statistics(architecture, batches)
        with self.space.bind(architecture), applied(statistics):
            yield

    def calibrated_statistics(self, architecture: Architecture, batches: Any = None) -> Statistics:
        """The running statistics of the normalization layers that run in an architecture, by layer and buffer.

        One forward pass is made for each batch. The network stays as it is; with
        :func:`~advnas_lightning.engine.calibration.applied` it has them.

        Args:
            architecture: What to run.
            batches: As for :meth:`calibrated`.
        """
        if batches is not None:
            return self.calibration.statistics(architecture, self.calibration.take(batches))
        self.calibration.begin()
        return self.calibration.found(architecture)

    def state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        """The state with the shared statistics, also while an architecture is evaluated with its own ones."""
        with self.calibration.paused():
            return super().state_dict(*arguments, **keywords)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add how far the fit has come, and the calibrated statistics of what was validated last."""
        with self.calibration.paused():
            super().on_save_checkpoint(checkpoint)
        keep_in(checkpoint, calibration=self.calibration.state_dict(), fit=FitState.of(self.trainer)._asdict())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take both from a checkpoint."""
        super().on_load_checkpoint(checkpoint)
        kept = kept_in(checkpoint)
        self._last_fit = FitState(**kept["fit"]) if "fit" in kept else None  # older ones have none
        if "calibration" in kept:
            self.calibration.load_state_dict(kept["calibration"])

    def derive(self, batches: Any = None, *, genotype: Mapping[str, str] | None = None) -> nn.Module:
        """The selected architecture as a plain network with the shared weights: no MixedOp.

        Its running statistics are those of this architecture on some training batches. After a fit these are the newest
        ones. A checkpoint has no batches, but the statistics of the architecture that was validated just before it was
        saved. If they are of no use, a warning says so, and ``batches`` are needed.

        That of a checkpoint is ``AdvantageNAS.load_from_checkpoint(path, model=…, architecture_optimizer=…).derive()``.
        The model is made as for the search. What a module has kept by ``save_hyperparameters`` is in
        ``torch.load(path)["hyper_parameters"]``.

        Args:
            batches: As for :meth:`calibrated`.
            genotype: Another architecture than the selected one.
        """
        found = self.genotype(self.selected) if genotype is None else Genotype(genotype)
        with applied(self.calibrated_statistics(self.one_hot(self.space.choice(found)), batches)):
            return found.apply(self.model)

    def export(self, path: str | Path, batches: Any = None, **options: Any) -> Exported:
        """Write what was found into a file, and compare what the file computes with the found network; after the fit.

        Args:
            path: The file. Its ending is the format: ``.onnx``, ``.pt2``, ``.torchscript`` or ``.py``.
            batches: As for :meth:`calibrated`; by default those of the last fit.
            options: Those of :func:`advnas_lightning.export.export`, such as ``genotype``, ``part`` and ``inputs``.
        """
        return export(self, path, batches, **options)

    def training_loaders(self) -> Any:
        """The loaders of the last fit, or ``None`` where there was none."""
        return self._loader
