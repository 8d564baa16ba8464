"""Trains one architecture from rung to rung, and scores it on validation data."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer, seed_everything

from advnas_lightning.callbacks.intact import intact_checkpoint, seal
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.runs import LAST, replacing
from advnas_lightning.space.genotype import Genotype

__all__ = ["Annealing", "RungTraining"]

Make = Callable[[Genotype], SearchStrategy]


class RungTraining:
    """Trains an architecture to a number of epochs, and gives its validation metric.

    After each rung it leaves a checkpoint in the folder of the training, from which the next rung goes on. The seed is
    the same for the first training of each architecture, and is set again at each rung. So a training that was
    interrupted ends as it would have ended. Test data are never asked for.

    The Trainer's ``max_epochs`` is that of the last rung throughout. So a learning rate that falls over the training
    falls over all rungs.

    Args:
        make: Makes the strategy ``Fixed`` for an architecture, with fresh or with given weights.
        epochs: The number of epochs of the last rung.
        metric: The name of the score among the validation metrics, such as ``val/loss``.
        anneal: The rungs, if the learning rates are to fall to 0 up to each of them, see :class:`Annealing`. By default
            they are what the module's own schedules make them.
        datamodule: The data module, as in ``Trainer.fit``.
        train_dataloaders: The training loaders, as in ``Trainer.fit``.
        val_dataloaders: The validation loaders, as in ``Trainer.fit``.
        seed: The seed of the initial weights, of the data's order and so on.
        trainer: Further arguments of the Trainer. Each rung has copies of the callbacks, which go on from what their
            training's checkpoint has of them.

    Raises:
        ValueError: ``trainer`` has a number of epochs, or asks for several processes.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from tempfile import mkdtemp
        >>> from torch.utils.data import DataLoader
        >>> from advnas_lightning import Fixed, MixedOp
        >>> from advnas_lightning.objectives import Regression
        >>> def make(genotype):
        ...     network = MixedOp("edge", {"skip": torch.nn.Identity(), "linear": torch.nn.Linear(2, 2)})
        ...     optimizer = partial(torch.optim.SGD, lr=0.1)
        ...     return Fixed(network, genotype=genotype, objective=Regression(), weight_optimizer=optimizer)
        >>> loader = DataLoader([(torch.ones(2), torch.ones(2))] * 4, batch_size=2)
        >>> train = RungTraining(make, epochs=1, metric="val/loss", train_dataloaders=loader, val_dataloaders=loader)
        >>> train(Genotype({"edge": "linear"}), Path(mkdtemp()), 1) > 0
        True
    """

    def __init__(
        self,
        make: Make,
        *,
        epochs: int,
        metric: str,
        anneal: Sequence[int] = (),
        datamodule: Any = None,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        seed: int = 0,
        trainer: Mapping[str, Any] | None = None,
    ) -> None:
        self._make, self._epochs, self._metric, self._seed = make, epochs, metric, seed
        self._datamodule, self._train, self._val = datamodule, train_dataloaders, val_dataloaders
        self._trainer = dict(trainer or {})
        for name in ("max_epochs", "min_epochs"):
            if name in self._trainer:
                raise ValueError(
                    f"trainer has {name}={self._trainer[name]}, and the rungs say how long a training is: leave it out"
                )
        own = self._trainer.pop("callbacks", None) or ()
        self._callbacks: list[Callback] = [*([own] if isinstance(own, Callback) else own)]
        if anneal:
            self._callbacks.append(Annealing(anneal))

    def check(self, genotype: Genotype) -> None:
        """Make an architecture and validate it on one batch, to see whether there is such a metric.

        Raises:
            ValueError: There is none.
        """
        self._score(self._make(genotype), self._make_trainer(0, limit_val_batches=1))

    def __call__(self, genotype: Genotype, folder: Path, epochs: int, repeat: int = 0) -> float:
        """Train to a rung, going on from the checkpoint in the folder if there is one, and give the score.

        Args:
            genotype: The architecture.
            folder: The folder of the training.
            epochs: The number of epochs of the rung.
            repeat: Which of the architecture's trainings it is, from 0. It is added to the seed.

        Raises:
            ValueError: There is no such metric.
            FloatingPointError: The losses of several steps in a row were not finite.
        """
        seed_everything(self._seed + repeat, verbose=False)
        strategy, trainer, file = self._make(genotype), self._make_trainer(epochs), folder / LAST
        checkpoint = intact_checkpoint(file) if file.exists() else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")  # about loaders' workers and the like
            trainer.fit(strategy, self._train, self._val, datamodule=self._datamodule, ckpt_path=checkpoint)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as unfinished:
            trainer.save_checkpoint(unfinished, weights_only=False)
            seal(unfinished)
        return self._score(strategy, trainer)

    def _make_trainer(self, epochs: int, **settings: Any) -> Trainer:
        given = {
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "check_val_every_n_epoch": self._epochs + 1,  # what is scored is the end of a rung
            **self._trainer,
            **settings,
        }
        callbacks = [*copy.deepcopy(self._callbacks), _StopAt(epochs)]  # a training must not know of the others
        trainer = Trainer(**{**given, "max_epochs": self._epochs, "callbacks": callbacks})
        if trainer.num_devices * trainer.num_nodes > 1:
            raise ValueError(
                f"trainer asks for {trainer.num_devices * trainer.num_nodes} processes, and each training runs in one:"
                " leave devices= and num_nodes= out, and let several processes refine in the same folder"
            )
        return trainer

    def _score(self, strategy: SearchStrategy, trainer: Trainer) -> float:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            results = trainer.validate(strategy, self._val, datamodule=self._datamodule, verbose=False)
        found = {name: value for each in results for name, value in each.items()}
        if self._metric not in found:
            raise ValueError(f"metric={self._metric} is not validated: use {', '.join(found) or 'another module'}")
        return float(found[self._metric])


class Annealing(Callback):
    """Lets all learning rates fall to 0 by a cosine up to each rung, and start again behind it.

    These are warm restarts (Loshchilov & Hutter 2017, SGDR, Eq. 5), in every batch. A score is then one of weights that
    have settled, at each rung and not at the last one alone. What the module's own schedules say is overruled.

    Args:
        rungs: The numbers of epochs at which they have fallen.

    Example:
        >>> Annealing((1, 3)).factor(0, 5, 10), Annealing((1, 3)).factor(1, 0, 10), Annealing((1, 3)).factor(2, 0, 10)
        (0.5, 1.0, 0.5)
    """

    def __init__(self, rungs: Sequence[int]) -> None:
        self._rungs = tuple(rungs)

    def factor(self, epoch: int, batch: int, batches: int) -> float:
        """The learning rate of a batch, as a part of the initial one.

        Args:
            epoch: The number of whole epochs before.
            batch: The number of batches of this epoch before.
            batches: The number of batches of an epoch.
        """
        begin = max((rung for rung in (0, *self._rungs) if rung <= epoch), default=0)
        end = min((rung for rung in self._rungs if rung > epoch), default=epoch + 1)
        done = (epoch - begin + batch / batches) / (end - begin)
        return round(0.5 * (1 + math.cos(math.pi * done)), 12)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the learning rates of this batch.

        Raises:
            ValueError: The number of batches of an epoch is not known.
        """
        if not math.isfinite(trainer.num_training_batches):
            raise ValueError(
                "anneal=True needs the number of batches of an epoch, and the loader has none: give limit_train_batches"
                " in trainer="
            )
        factor = self.factor(trainer.current_epoch, batch_idx, int(trainer.num_training_batches))
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


class _StopAt(Callback):
    """Ends a fit after a number of epochs, below the Trainer's ``max_epochs``."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train nothing, where a process was killed after the last epoch of the rung."""
        trainer.should_stop |= trainer.current_epoch >= self._epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after the last epoch of the rung."""
        trainer.should_stop |= trainer.current_epoch + 1 >= self._epochs
