"""What a checkpoint holds so that a search goes on bit for bit; also one that was saved in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader, rank_zero_warn

from advnas_lightning import rng
from advnas_lightning.checkpoint_part import keep_in, kept_in
from advnas_lightning.engine.buffers import (
    collect_buffers,
    collect_modes,
    loose_weights,
    restore_buffers,
    restore_loose_weights,
    restore_modes,
    restore_state,
)
from advnas_lightning.engine.lightning_private import (
    batches_used,
    collect_logs,
    collect_metrics,
    has_workers,
    modes_before_validation,
    reload_train_loaders,
    restore_logs,
    restore_metrics,
)
from advnas_lightning.engine.tracking import EpochMeans
from advnas_lightning.loader_pass import generator_states, set_generator_states, start_workers
from advnas_lightning.loaders import SearchLoader
from advnas_lightning.runs import differences
from advnas_lightning.space.search_space import SearchSpace

CHECKPOINT_FORMAT = 2  # rises when older checkpoints cannot be resumed any more
# What is restored when training begins.
WAITING = (
    "rng",
    "loader",
    "partial_epoch",
    "metric_states",
    "logs",
    "buffers",
    "loose_weights",
    "modes",
    "val_loaders",
)


class Resumption:
    """Puts into a checkpoint what a search needs beside its ``state_dict``, and restores it, each part at its moment.

    Args:
        module: The search, for its metrics and its device.
        means: The means of the running epoch.

    Example:
        >>> resumption = Resumption(LightningModule(), EpochMeans())
        >>> resumption.remember({"rng": rng.collect(), "epoch": 3}, optimizers=False)
        >>> resumption.start(Trainer(accelerator="cpu", logger=False))  # goes on with the random numbers
    """

    def __init__(self, module: LightningModule, means: EpochMeans) -> None:
        self._module, self._means = module, means
        self._waiting: dict[str, Any] = {}  # what a checkpoint held, until the moment of each part

    def collect(
        self,
        checkpoint: dict[str, Any],
        strategy: str,
        settings: Mapping[str, Any],
        trainer: Trainer,
        loader: SearchLoader | None,
    ) -> None:
        """Add to a checkpoint what a search needs beside its ``state_dict``.

        Args:
            checkpoint: The checkpoint, which is changed.
            strategy: The name of the search's strategy.
            settings: What decides the search's result, by name, in plain values.
            trainer: The Trainer of the search.
            loader: Where its batches come from.
        """
        search: dict[str, Any] = {"format": CHECKPOINT_FORMAT, "strategy": strategy, "settings": dict(settings)}
        used = batches_used(trainer)
        within_epoch = bool(used)
        keep_in(
            checkpoint,
            search=search,
            rng=rng.collect(),
            buffers=collect_buffers(self._module, checkpoint["state_dict"]),
            loose_weights=[weight.detach() for weight in loose_weights(self._module, trainer.optimizers)],
            metric_states=collect_metrics(self._module, trainer, within_epoch=within_epoch),
            logs=collect_logs(trainer, within_epoch=within_epoch),
            val_loaders=[
                {"has_workers": has_workers(each), "generators": generator_states(each)}
                for each in _val_loaders(trainer)
            ],
        )
        if within_epoch:
            modes = collect_modes(self._module, modes_before_validation(trainer))
            keep_in(checkpoint, partial_epoch={"means": self._means.state_dict()}, modes=modes)
        if loader is not None:
            search["sizes"] = sizes(trainer, loader)
            keep_in(checkpoint, loader=loader.place(used))

    def remember(self, checkpoint: dict[str, Any], *, optimizers: bool) -> None:
        """Take from a checkpoint what is restored later.

        Args:
            checkpoint: The checkpoint as it was loaded.
            optimizers: Whether to take the optimizers' states out of it, too. Lightning would move all of them to the
                device; an optimizer puts each part beside its weight.
        """
        kept = kept_in(checkpoint)
        self._waiting = {key: kept[key] for key in WAITING if key in kept}
        self._waiting["state"] = dict(checkpoint.get("state_dict", {}))
        if "loader" in kept:
            self._waiting["sizes"] = kept["search"].get("sizes", {})
            self._waiting["is_within_epoch"] = is_within_epoch(checkpoint)
        if optimizers:
            self._waiting["optimizer_states"] = states = checkpoint.get("optimizer_states", [])
            checkpoint["optimizer_states"] = [{**state, "state": {}} for state in states]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which nothing is restored."""
        waiting, self._waiting = self._waiting, {}
        try:
            yield
        finally:
            self._waiting = waiting

    def before_loading(self, trainer: Trainer) -> None:
        """Let the Trainer ask for its data again, so that they are loaded from the place in the checkpoint."""
        if "loader" in self._waiting:
            reload_train_loaders(trainer)

    def restore_loader(self, loader: SearchLoader) -> None:
        """Let a loader go on where it was.

        Raises:
            ValueError: It was within an epoch, and this loader has other batches.
        """
        if "loader" in self._waiting:
            saved, ours = self._waiting.pop("sizes"), sizes(self._module.trainer, loader)
            refuse_other_sizes(saved, ours, is_within_epoch=self._waiting.pop("is_within_epoch"))
            loader.go_on_from(self._waiting.pop("loader"))
            if loader.fetches_ahead:  # it draws its numbers right now
                rng.restore(self._waiting.pop("rng"))

    def start(self, trainer: Trainer) -> None:
        """Restore the rest, when training begins: all that runs before it has drawn its random numbers by then."""
        for loader, state in zip(_val_loaders(trainer), self._waiting.pop("val_loaders", []), strict=False):
            if state["has_workers"]:
                start_workers(loader)
            set_generator_states(loader, state["generators"])
        for optimizer, state in zip(trainer.optimizers, self._waiting.pop("optimizer_states", []), strict=False):
            optimizer.load_state_dict(state)
        restore_state(self._module, self._waiting.pop("state", {}))  # a hook of the start may have changed it
        restore_buffers(self._module, self._waiting.pop("buffers", {}))
        restore_modes(self._module, self._waiting.pop("modes", {}))
        if "loose_weights" in self._waiting:
            restore_loose_weights(loose_weights(self._module, trainer.optimizers), self._waiting.pop("loose_weights"))
        if "rng" in self._waiting:
            rng.restore(self._waiting.pop("rng"))
        if "partial_epoch" in self._waiting:
            partial = self._waiting.pop("partial_epoch")
            if trainer.world_size > 1:
                rank_zero_warn(
                    "the search goes on within an epoch, in several processes: a mean over this epoch has the earlier"
                    " batches of the first process in the place of those of each"
                )
            self._means.load_state_dict(partial["means"], self._module.device)
            self._waiting.setdefault("metric_states", partial.get("metrics", {}))  # where earlier versions have them
        restore_metrics(self._module, self._waiting.pop("metric_states", {}), self._module.device)
        if "logs" in self._waiting:
            restore_logs(trainer, self._module, self._waiting.pop("logs"))


def _val_loaders(trainer: Trainer) -> list[Any]:
    loaders = trainer.val_dataloaders  # whose truth would ask for a length
    return [] if loaders is None else CombinedLoader(loaders).flattened


def sizes(trainer: Trainer, loader: SearchLoader) -> dict[str, Any]:
    """What decides which batches an epoch has, as far as it is known."""
    options: Any = trainer
    limits = {f"trainer.{name}": getattr(options, name) for name in ("limit_train_batches", "overfit_batches")}
    return {**loader.sizes, **limits, "processes": trainer.world_size}


def is_within_epoch(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was saved after the first batch of an epoch and before that epoch's end.

    Example:
        >>> epochs, batches = {"ready": 1, "processed": 0}, {"ready": 3}
        >>> loop = {"epoch_progress": {"current": epochs}, "epoch_loop.batch_progress": {"current": batches}}
        >>> is_within_epoch({"loops": {"fit_loop": loop}})
        True
    """
    loop = checkpoint["loops"]["fit_loop"]
    epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    # Where a limit of steps or a callback has ended an epoch early, Lightning takes its other batches after all.
    is_open = epochs["ready"] > epochs["processed"] or not batches.get("is_last_batch", False)
    return bool(is_open and batches["current"]["ready"])


def refuse_other_sizes(saved: Mapping[str, Any], ours: Mapping[str, Any], *, is_within_epoch: bool) -> None:
    """Check that an epoch has the batches that it had, if a search is to go on within it; warn if it is not.

    Args:
        saved: The sizes that the checkpoint has, see :func:`sizes`.
        ours: The present ones.
        is_within_epoch: Whether the checkpoint was saved within an epoch.

    Raises:
        ValueError: They differ, within an epoch.

    Example:
        >>> refuse_other_sizes({"weights.batches": 8}, {"weights.batches": 2}, is_within_epoch=True)
        Traceback (most recent call last):
            ...
        ValueError: within an epoch a search goes on with the batches that it had (weights.batches is 8, not 2): give \
it the same loaders and processes, or a checkpoint from the end of an epoch
    """
    found = "; ".join(differences(saved, ours)) if saved else ""
    if found and is_within_epoch:
        raise ValueError(
            f"within an epoch a search goes on with the batches that it had ({found}): give it the same loaders and"
            " processes, or a checkpoint from the end of an epoch"
        )
    if found:
        rank_zero_warn(f"the search goes on with other batches: {found}")


def refuse_other(
    checkpoint: Mapping[str, Any], strategy: str, settings: Mapping[str, Any] | None = None, *, has_cost: bool
) -> None:
    """Check that a checkpoint is of a search like this one.

    Args:
        checkpoint: The checkpoint as it was loaded.
        strategy: The name of this search's strategy.
        settings: What decides this search's result; ``None`` if it is not to go on.
        has_cost: Whether this search has a cost.

    Raises:
        ValueError: It is of another strategy, of another version of this package, or of other settings.
    """
    search = kept_in(checkpoint).get("search")
    if search is None:
        raise ValueError("the checkpoint is of no search of this package: name the checkpoints/last.ckpt of a run")
    if search["format"] != CHECKPOINT_FORMAT:
        raise ValueError(
            f"the checkpoint has the format {search['format']} of another version, and this one reads"
            f" {CHECKPOINT_FORMAT}: resume with the version that wrote it"
        )
    if search["strategy"] != strategy:
        raise ValueError(f"the checkpoint is of {search['strategy']} search, and this is {strategy}")
    if ("cost.penalty" in checkpoint["state_dict"]) != has_cost:
        had, fix = ("no cost", "leave cost=… out") if has_cost else ("a cost", "give the strategy cost=… as it had")
        raise ValueError(f"the checkpoint is of a search with {had}: {fix}")
    saved, ours = search.get("settings", {}), settings or {}
    common = saved.keys() & ours.keys()  # newer versions have more of them
    found = differences({name: saved[name] for name in common}, {name: ours[name] for name in common})
    if found:
        raise ValueError(
            f"the checkpoint is of a search with other settings ({'; '.join(found)}): go on with those that it had, or"
            " start a new search"
        )


def refuse_past_end(checkpoint: Mapping[str, Any], max_epochs: int | None) -> None:
    """Check that a checkpoint is not of a later epoch than the last one.

    Args:
        checkpoint: The checkpoint as it was loaded.
        max_epochs: The number of epochs there are to be; ``None`` or −1 for no limit.

    Raises:
        ValueError: It is, and the training would end at once, with whatever it had learned by then.

    Example:
        >>> loop = {"epoch_progress": {"current": {"ready": 3, "processed": 2}}}
        >>> refuse_past_end({"loops": {"fit_loop": loop}}, 2)
        Traceback (most recent call last):
            ...
        ValueError: the checkpoint is of epoch 3, and max_epochs=2: set max_epochs to at least 3
    """
    epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
    if max_epochs is not None and 0 <= max_epochs < epoch:
        raise ValueError(
            f"the checkpoint is of epoch {epoch}, and max_epochs={max_epochs}: set max_epochs to at least {epoch}"
        )


def refuse_other_space(state: Mapping[str, Any], space: SearchSpace) -> None:
    """Check that a checkpoint is of the same edges and candidates, in the same order: that of the rows of θ.

    Args:
        state: The search's extra state, see :func:`describe_space`.
        space: This search's.

    Raises:
        ValueError: It is not.
    """
    ours = describe_space(space)
    if list(state["space"].items()) != list(ours.items()):
        raise ValueError(f"the checkpoint's search space is {state['space']}, this model's is {ours}")


def describe_space(space: SearchSpace) -> dict[str, list[str]]:
    """The names of each edge's candidates."""
    return {edge: list(row) for edge, row in zip(space.edges, space.candidates, strict=True)}
