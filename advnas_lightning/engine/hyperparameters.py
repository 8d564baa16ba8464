"""What ``save_hyperparameters`` of a user's module keeps, in the places where Lightning looks for it."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule
from lightning.fabric.utilities.data import AttributeDict
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.parsing import clean_namespace
from torch import nn

from advnas_lightning.engine.lightning_private import checkpointed_hyperparameters, logs_hyperparameters


class SharedHyperparameters(LightningModule):
    """A LightningModule whose ``model`` may have hyperparameters, too.

    In a checkpoint the model's are where Lightning has a module's. Its own have other keys, so that its own
    ``load_from_checkpoint`` takes none that are meant for the model. Loggers get those of both.

    Example:
        >>> class Mine(LightningModule):
        ...     def __init__(self, width):
        ...         super().__init__()
        ...         self.save_hyperparameters()
        >>> search = SharedHyperparameters()
        >>> search.model = Mine(width=8)
        >>> search.hparams_initial
        "width": 8
        >>> search.add_hyperparameters(checkpoint := {})
        >>> checkpoint
        {'hparams_name': 'kwargs', 'hyper_parameters': {'width': 8}}
    """

    CHECKPOINT_HYPER_PARAMS_KEY = "search_hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "search_hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE = "search_hparams_type"

    model: nn.Module
    _logs_own = False

    @property
    def _log_hyperparams(self) -> bool:  # Lightning's name for whether loggers get them
        return self._logs_own or self._logged_model is not None

    @_log_hyperparams.setter
    def _log_hyperparams(self, logs: bool) -> None:
        self._logs_own = logs

    @property
    def _logged_model(self) -> LightningModule | None:
        model = self.model
        return model if isinstance(model, LightningModule) and logs_hyperparameters(model) else None

    @property
    def hparams_initial(self) -> AttributeDict:
        """What loggers get: the hyperparameters that the search and its model had when they were saved.

        Raises:
            MisconfigurationException: Both have one of a name, with different values.
        """
        model = self._logged_model
        if model is None:
            return super().hparams_initial
        models = model.hparams_initial
        own = super().hparams_initial if self._logs_own else AttributeDict()
        for name in sorted(own.keys() & models.keys()):
            if repr(own[name]) != repr(models[name]):  # tensors cannot be compared so simply
                raise MisconfigurationException(
                    f"the hyperparameter {name} is {own[name]!r} in {type(self).__name__} and {models[name]!r} in"
                    f" {type(model).__name__}: log one of them alone, with save_hyperparameters(logger=False)"
                )
        return AttributeDict({**models, **own})

    @property
    def strict_loading(self) -> bool:
        """Whether a checkpoint must have all of the ``state_dict``; not if the model says so."""
        model = self.model
        return super().strict_loading and (not isinstance(model, LightningModule) or model.strict_loading)

    @strict_loading.setter
    def strict_loading(self, strict_loading: bool) -> None:
        self._strict_loading = strict_loading

    def clean_hyperparameters(self) -> None:
        """Drop what cannot be pickled from the model's, with a warning, as Lightning does at the start of a run."""
        if isinstance(self.model, LightningModule):
            clean_namespace(self.model.hparams)

    def add_hyperparameters(self, checkpoint: dict[str, Any]) -> None:
        """Add the model's to a checkpoint."""
        if isinstance(self.model, LightningModule):
            checkpoint.update(checkpointed_hyperparameters(self.model))
